"""The hot path: bytes to checked rows, outputs to bytes.

A `Codec` is made once per version and used for every request. It holds no state that a
request changes, so threads may share it.
"""

from collections.abc import Mapping
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

from aios.contracts import inference_protocol, outputs
from aios.contracts.batch import Batch, Layout
from aios.contracts.columns import read_list
from aios.contracts.contract import Contract
from aios.contracts.fields import MISSING
from aios.contracts.inference_request import V2Request
from aios.contracts.inference_rows import FewRows
from aios.contracts.json_names import malformed_json, refuse_repeated_names
from aios.contracts.keys import read_keys
from aios.contracts.rows import compile_rows
from aios.contracts.violations import MOST_TOLD, Faults
from aios.errors import ContractViolation, Malformed, PayloadTooLarge

Array = np.ndarray[Any, Any]

_UNKNOWN = "was given, and no such field is known"
ROW_PATH_MAX = 64
"""Up to here the compiled row path is the faster one. Measured with 15 numbers: it costs
1.4 us a row, the vectorised path 60 us plus 1.6 us a row."""


class Codec:
    """Decodes, checks and encodes for one contract.

    Args:
        contract: what to check against.
        max_rows: the most rows one request may hold.
    """

    def __init__(self, contract: Contract, max_rows: int = 10_000) -> None:
        self.contract = contract
        self.max_rows = max_rows
        self.layout = Layout.of(contract.inputs)
        self._read_rows = compile_rows(contract.inputs, contract.key)
        self._few_rows = FewRows(contract.inputs, contract.key, self.layout, self._read_rows)
        self._known = frozenset(contract.inputs) | ({contract.key} if contract.key else set())
        self._names = ", ".join(contract.inputs)
        self._output_ranges = outputs.ranges(contract.outputs)

    def decode_records(self, body: bytes) -> Batch:
        """Rows of a plain JSON body: `{"records": [...]}`, a list of objects, or one object.

        Raises:
            Malformed: the body is not JSON (NaN and infinity are not), says a name twice
                in one object, or is none of the three.
            PayloadTooLarge: it holds more than `max_rows` rows.
            ContractViolation: it is empty or a value does not fit; see `.violations`.
        """
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise malformed_json(error) from None
        names = 0
        if type(document) is dict:
            if "records" in document:
                names = 1
                records = document["records"]
                if type(records) is not list or len(document) > 1:
                    raise Malformed('"records" must be the only member, and a list of objects')
            else:
                records = [document]
        elif type(document) is list:
            records = document
        else:
            raise Malformed('the body must be {"records": [...]}, a list of objects or one object')
        batch = self.validate_records(records)
        refuse_repeated_names(body, names + sum(map(len, records)))
        return batch

    def validate_records(self, records: list[dict[str, Any]]) -> Batch:
        """Rows from Python dicts, by the same rules; numpy scalars and NaN for null are fine.

        Raises:
            PayloadTooLarge: there are more than `max_rows` rows.
            ContractViolation: there are none, or a value does not fit.
        """
        rows = len(records)
        if rows > self.max_rows:
            raise PayloadTooLarge(
                f"{rows} rows are over the limit of {self.max_rows} in one request; split them",
                rows=rows,
                max_rows=self.max_rows,
            )
        if rows == 0:
            raise ContractViolation("the batch is empty; send at least one record", violations=[])
        if rows <= ROW_PATH_MAX:
            found = self._read_rows(records)
            if found is not None:
                return Batch(self.layout, rows, found[1], values=found[0])
        return self._read_columns(records)

    def _read_columns(self, records: list[dict[str, Any]]) -> Batch:
        faults = Faults("")
        self._check_names(records, faults)
        faults.raise_if_any()
        columns: dict[str, Array] = {}
        for order, (name, field) in enumerate(self.contract.inputs.items()):
            try:
                values = list(map(itemgetter(name), records))
            except KeyError:
                absent = None if field.nullable else MISSING
                values = [record.get(name, absent) for record in records]
            columns[name] = read_list(name, field, values, faults, order)
        keys = None
        if self.contract.key is not None:
            values = [record.get(self.contract.key) for record in records]
            keys = read_keys(self.contract.key, values, faults)
        faults.raise_if_any()
        return Batch(self.layout, len(records), keys, columns=columns)

    def _check_names(self, records: list[Any], faults: Faults) -> None:
        known = self._known
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                faults.add(row, None, record, "is not an object", "an object of named fields")
            elif record.keys() != known and not record.keys() <= known:
                unknown = (name for name in record if name not in known)
                # A hostile record may hold a million names: look at no more than are told.
                for name in islice(unknown, MOST_TOLD + 1):
                    reason, allowed = _UNKNOWN, f"the fields {self._names}"
                    faults.add(row, str(name), record[name], reason, allowed, kind="unknown")
                # A renamed field both appeared and vanished: tell both.
                self._check_missing(row, record, faults)
            if len(faults) > MOST_TOLD:
                faults.truncate()
                return

    def _check_missing(self, row: int, record: dict[str, Any], faults: Faults) -> None:
        for order, (name, field) in enumerate(self.contract.inputs.items()):
            if not field.nullable and name not in record:
                allowed = field.describe()
                faults.add(row, name, MISSING, "is missing", allowed, order, "missing")

    def decode_v2(self, body: bytes, header_length: int | None = None) -> tuple[Batch, V2Request]:
        """Rows of an Open Inference Protocol v2 request, JSON or with binary tensors.

        One tensor per input, shaped [rows], [rows, 1] or [rows, *shape]; or, where all
        inputs are scalar numbers, one tensor named `input-0` shaped [rows, inputs].

        Args:
            body: the whole body.
            header_length: the `Inference-Header-Content-Length`, if binary data follows.

        Raises:
            Malformed: it is not such a request, or a tensor is cut off.
            Unsupported: it asks for something that is not spoken here (shared memory).
            PayloadTooLarge: it holds more than `max_rows` rows.
            ContractViolation: a name, datatype, shape or value does not fit the contract.
        """
        return inference_protocol.decode(
            self.contract, self.layout, self._few_rows, self.max_rows, body, header_length
        )

    def check_outputs(self, outputs_found: Mapping[str, Array], rows: int) -> None:
        """Check what a model gave, before it is sent.

        Raises:
            ContractViolation: an output is missing, has another number of rows, holds NaN
                or infinity, or lies outside its range.
        """
        outputs.check(self.contract.outputs, self._output_ranges, outputs_found, rows)

    def encode_records(self, outputs_found: Mapping[str, Array], meta: Mapping[str, Any]) -> bytes:
        """`{"outputs": [{name: value, ...}, ...], **meta}`, one object per row."""
        return outputs.encode_records(self.contract.outputs, outputs_found, meta)

    def encode_v2(
        self,
        outputs_found: Mapping[str, Array],
        request: V2Request,
        model_name: str,
        model_version: str,
        request_id: str,
        parameters: Mapping[str, Any] | None = None,
        beside: Mapping[str, Array] | None = None,
    ) -> tuple[bytes, int | None]:
        """The answer to a v2 request: the body, and the length of its JSON header where
        binary tensors follow (to be sent as `Inference-Header-Content-Length`). `beside` are
        numbers, [rows] each, sent as further tensors.

        Raises:
            Unsupported: null was to be sent in a binary tensor that has no NaN.
        """
        return inference_protocol.encode(
            self.contract,
            outputs_found,
            request,
            model_name,
            model_version,
            request_id,
            parameters,
            beside,
        )

    def metadata(self, model_name: str, versions: list[str]) -> dict[str, Any]:
        """The protocol's model metadata; -1 stands for the number of rows."""
        return inference_protocol.metadata(self.contract, model_name, versions)

    def example(self, rows: int = 1) -> Batch:
        """Rows that fit, for warming up a model."""
        record = {name: field.example() for name, field in self.contract.inputs.items()}
        return self.validate_records([record] * rows)
