"""The tab's server side: a TensorBoard plugin whose routes give JSON, arrays in it as base64 of float32."""

import base64
import json
import mimetypes
from collections.abc import Callable
from importlib import resources
from typing import Any, cast

import numpy as np
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import DataProvider
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from l2l_opt.inspection.unrolls_tab.reading import UnreadableError, UnrollReader, UnrollView
from l2l_opt.inspection.unrolls_tab.records import PLUGIN, Header

STATIC = resources.files("l2l_opt.inspection.unrolls_tab") / "static"
NOTHING = (
    "There are no unrolls in this directory. `l2l-opt inspect`, `meta-train` and `specialise` write them, and so does "
    "UnrollMonitor in a training loop of your own."
)


class UnrollsPlugin(base_plugin.TBPlugin):
    """Shows training runs step by step.

    Args:
        context: TensorBoard's.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext):
        self._reader = UnrollReader(cast(DataProvider, context.data_provider))

    def get_plugin_apps(self) -> dict[str, Callable]:
        answers = {
            "/runs": self._runs,
            "/unroll": self._unroll,
            "/table": self._table,
            "/tensor": self._tensor,
            "/weight": self._weight,
            "/response": self._response,
        }
        return {route: _route(answer) for route, answer in answers.items()} | {"/static/*": serve_static}

    def is_active(self) -> bool:
        """Nothing: TensorBoard asks its data whether there is anything of this tab."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Unrolls", disable_reload=True)

    def _runs(self, request: "Asked") -> dict[str, Any]:
        """All unrolls, and a sentence where there is nothing to show of a run."""
        runs, problems = [], []
        for run, unrolls in self._reader.tags(request.context, request.experiment).items():
            shown = []
            for number in sorted(unrolls):
                try:
                    view = self._reader.view(request.context, request.experiment, run, number)
                    if not view.chunks:
                        raise UnreadableError(f"Unroll {number} of the run {run!r} has no whole steps yet.")
                    shown.append(number)
                except UnreadableError as error:
                    problems.append(str(error))
            if shown:
                runs.append({"run": run, "unrolls": shown})
        return {"runs": runs, "problems": problems or ([] if runs else [NOTHING])}

    def _unroll(self, request: "Asked") -> dict[str, Any]:
        own = request.view(self._reader).unroll()
        header: Header = own.header
        return {
            "optimizer": header.optimizer,
            "horizon": header.horizon,
            "units": header.units,
            "quantities": header.quantities,
            "tensors": [
                {
                    "name": entry.name,
                    "shape": entry.shape,
                    "sampled": entry.sampled,
                    "followed": entry.followed,
                    "probe": entry.probe,
                }
                for entry in header.tensors
            ],
            "steps": own.steps.astype(int).tolist(),
            "losses": own.losses,
            "starts": own.starts,
            "chunks": own.chunks,
            "responses": own.responses,
        }

    def _table(self, request: "Asked") -> dict[str, Any]:
        return {"values": request.view(self._reader).table(request.whole("chunk"))}

    def _tensor(self, request: "Asked") -> dict[str, Any]:
        view, tensor = request.tensor(self._reader)
        return {
            "quantities": view.quantities(tensor),
            "updates": view.updates(tensor),
            "columns": view.columns().tolist(),
        }

    def _weight(self, request: "Asked") -> dict[str, Any]:
        view, tensor = request.tensor(self._reader)
        place, count = request.whole("weight"), len(view.header.tensors[tensor].sampled)
        if place >= count:
            raise UnreadableError(f"There are {count} recorded weights in the tensor; got number {place}.")
        values, hidden = view.weight(tensor, place), view.hidden(tensor, place)
        return {"values": values, "hidden": hidden, "columns": view.columns().tolist()}

    def _response(self, request: "Asked") -> dict[str, Any]:
        view, tensor = request.tensor(self._reader)
        return {"responses": list(view.response(tensor))}


class Asked:
    """A request, and what it asks for.

    Args:
        request: werkzeug's.
    """

    def __init__(self, request: wrappers.Request):
        self.context = plugin_util.context(request.environ)
        self.experiment = plugin_util.experiment_id(request.environ)
        self._arguments = request.args

    def whole(self, name: str) -> int:
        """Return an argument that is a whole number.

        Raises:
            UnreadableError: it is none.
        """
        value = self._arguments.get(name, "")
        if not (value.isascii() and value.isdigit() and len(value) < 12):
            raise UnreadableError(f"{name} must be a whole number; got {value!r}.")
        return int(value)

    def view(self, reader: UnrollReader) -> UnrollView:
        """Return the unroll."""
        return reader.view(self.context, self.experiment, self._arguments.get("run", ""), self.whole("unroll"))

    def tensor(self, reader: UnrollReader) -> tuple[UnrollView, int]:
        """Return the unroll and the index of a tensor."""
        view, tensor = self.view(reader), self.whole("tensor")
        if tensor >= len(view.header.tensors):
            raise UnreadableError(f"There are {len(view.header.tensors)} tensors in the unroll; got number {tensor}.")
        return view, tensor


def _route(answer: Callable[[Asked], dict[str, Any]]) -> Callable:
    @wrappers.Request.application
    def app(request: wrappers.Request) -> wrappers.Response:
        try:
            text, code = json.dumps(answer(Asked(request)), default=_plain), 200
        except UnreadableError as error:
            text, code = json.dumps({"problem": str(error)}), 404
        return http_util.Respond(request, text, "application/json", code=code)

    return app


def _plain(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no JSON")
    data = np.ascontiguousarray(value, dtype="<f4").tobytes()
    return {"shape": value.shape, "float32": base64.b64encode(data).decode()}


@wrappers.Request.application
def serve_static(request: wrappers.Request) -> wrappers.Response:
    """Give a file of the page."""
    name = request.path.rpartition("/static/")[2]
    names = {own.name for own in STATIC.iterdir() if own.is_file()}
    if name not in names:
        return http_util.Respond(request, "There is no such file.", "text/plain", code=404)
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
    return http_util.Respond(request, (STATIC / name).read_bytes(), kind)
