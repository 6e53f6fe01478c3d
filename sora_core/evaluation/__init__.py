"""The scorecard: generated videos measured against renders of the same scenes, by a small network that reads facts from frames."""
