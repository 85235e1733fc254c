"""MLflow's server as `fithubert ui` runs it (an `mlflow.app`): it also answers the question who is logged in.

MLflow's pages ask that of every server, and one without accounts says "not found", which the browser's console shows as
an error (MLflow 3.17). An answer without a user is what the pages take for "nobody".
"""

from mlflow.server.fastapi_app import app
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

__all__ = ["app"]


async def _nobody(_: Request) -> JSONResponse:
    return JSONResponse({})


# Before MLflow's own routes, the last of which takes every address.
app.router.routes.insert(0, Route("/ajax-api/2.0/mlflow/users/current", _nobody))
