"""The scorecard: generated videos measured against renders of the same scenes.

rows                         the list of all rows; bench, how much of everything; studio, makes and keeps the videos
observer, lessons            a small network that reads facts from frames, and how it is taught
tracking, metrics            what is read from pixels without it
adherence, happenings, hiding, surprise, physics, geometry, shots, quality    a file for each thing that is measured, with its rows
intervals, report            95 % intervals; JSON, table and plot
"""
