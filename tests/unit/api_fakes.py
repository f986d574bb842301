"""The control API without Ray or a network: the real ASGI application, called in process."""

import asyncio
from concurrent.futures import Future

import httpx
from kernel_fakes import World

from aios.kernel.api import build_api, caller_of
from aios.security import Caller


def api_of(world: World):
    """The API in front of a world's kernel, with the keys that Serve was told last."""

    async def execute(command, arguments, caller, operation_id):
        found = world.kernel.execute(command, arguments, caller, operation_id)
        return found.result(timeout=5) if isinstance(found, Future) else found

    def identify(header):
        (deployment,) = world.serve.apps["aios--api"]["deployments"]
        told = deployment["user_config"]["keys"]
        return caller_of({digest: Caller(*who) for digest, who in told.items()}, header)

    return build_api(execute, identify, lambda body, digest: None, lambda body, digest: digest)


class Client:
    """Synchronous calls into an ASGI application; `raw` are headers as they are sent."""

    def __init__(self, app, key):
        self._app = app
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def __call__(self, method, path, **more):
        async def scenario():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            headers = httpx.Headers({**self._headers, **more.pop("headers", {})})
            headers = httpx.Headers([*headers.raw, *more.pop("raw", [])])
            async with httpx.AsyncClient(
                transport=transport, base_url="http://aios", headers=headers
            ) as client:
                return await client.request(method, path, **more)

        return asyncio.run(scenario())


def is_problem(answer, status, code):
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["detail"]
    return body
