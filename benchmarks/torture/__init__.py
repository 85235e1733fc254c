"""Bad files, bad parameters, kills and full disks: `make torture`.

A case is good if it gives the right result or one `UserError` of one line, in time, and leaves nothing behind. Whatever
else happens (a traceback, a wrong result, a lost or half-written file, a hang) is a failure.
"""
