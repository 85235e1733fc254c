"""One function per DVC stage: reads what the stage reads, calls the room that does the work, writes what it writes.

The pipeline and the command line call the same functions.
"""
