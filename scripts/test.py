"""Prove everything: set up (see environment.py), then ruff, then the whole test suite.

    python scripts/test.py                   everything
    python scripts/test.py tests/unit -x     further arguments go to pytest

The first run also installs, for about two minutes; later ones start at once. Exit status 0 only when both are clean.
"""

import subprocess
import sys

import environment


def main() -> int:
    try:
        python = environment.ready()
    except environment.SetupError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        environment.chromium()
    except environment.SetupError as error:
        print(error, file=sys.stderr)  # the browser tests will fail with this sentence; the others are worth running

    variables, root = environment.child_variables(), environment.ROOT
    print(f"environment: {python}\nruff", flush=True)
    lint = [
        subprocess.run([python, "-m", "ruff", *check, "."], cwd=root, env=variables).returncode
        for check in (["check"], ["format", "--check"])
    ]
    arguments = sys.argv[1:]
    # The words of `-k nodes` are no path, though there is a folder of that name.
    given = [word for before, word in zip(["", *arguments], arguments) if before not in ("-k", "-m")]
    if not any((root / word.split("::")[0]).exists() for word in given):
        arguments.append("tests")
    # -P: without it the root would be on sys.path, and its nodes/ would hide the host's nodes.py.
    suite = subprocess.run([python, "-P", "-m", "pytest", *arguments], cwd=root, env=variables).returncode
    return next((status for status in (*lint, suite) if status), 0)


if __name__ == "__main__":
    sys.exit(main())
