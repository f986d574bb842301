"""What goes into a model and what comes out: typed, checked at the edge, on two wires.

For the rooms above: `models` infers and stores a `Contract`, `serving` makes one `Codec`
per version and calls it for every request, engines get a `Batch`.

    codec = Codec(contract, max_rows=10_000)
    batch = codec.decode_records(body)                       or decode_v2(body, header_length)
    batch.matrix(dtype=np.float32), batch.column("appinc"), batch.keys
    codec.check_outputs({"approve": scores}, batch.rows)
    codec.encode_records(outputs, {"version": 3})            or encode_v2(outputs, request, ...)

Invariants: what a `Batch` holds fits its contract; the compiled row path and the vectorised
column path mean the same as `Field.check`; whatever bytes arrive, the answer is a `Batch`
or one of Malformed, ContractViolation, PayloadTooLarge, Unsupported. HTTP statuses live in
`problems` and nowhere else.

It must not know Ray, models, endpoints or databases.
"""

from aios.contracts.batch import Batch
from aios.contracts.codec import Codec
from aios.contracts.contract import Contract, compatibility
from aios.contracts.fields import (
    Boolean,
    Category,
    Field,
    Integer,
    Number,
    Text,
)
from aios.contracts.inference_request import V2Request
from aios.contracts.problems import problem
from aios.contracts.tensor import Tensor
from aios.contracts.violations import ViolationCounts

__all__ = [
    "Batch",
    "Boolean",
    "Category",
    "Codec",
    "Contract",
    "Field",
    "Integer",
    "Number",
    "Tensor",
    "Text",
    "V2Request",
    "ViolationCounts",
    "compatibility",
    "problem",
]
