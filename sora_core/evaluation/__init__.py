"""The scorecard: generated videos measured against renders of the same scenes.

rows                         the list of all rows; bench, how much of everything; studio, makes and keeps the videos
observer, observer_training  a small network that reads facts from frames, and how it is taught
tracking, metrics            what is read from pixels without it: where things of a colour are, drift, jumps
adherence, hearing, story_events, cameras, permanence, surprise, physics, geometry, shots, quality, minute
                             a file for each thing measured, with its rows
verbs, ball_tracking         a command of its own, for what extend, fill, join and loop promise; the speed of the ball in its scenes
intervals, report            95 % intervals; JSON, table and plot
"""
