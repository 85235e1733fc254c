"""Registers the student in s3prl (`from s3prl.upstream.FOLDER.hubconf import *`) and in torch.hub."""

if __name__.endswith(".hubconf"):  # in a package, as s3prl.upstream.FOLDER
    from .expert import UpstreamExpert as _UpstreamExpert
else:  # torch.hub, which puts this folder on the path
    from expert import UpstreamExpert as _UpstreamExpert


def student_upstream(*args, **kwargs):
    """The exported student; arguments as those of any upstream."""
    return _UpstreamExpert(*args, **kwargs)
