"""An ONNX graph while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

#: The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Model:
    """A graph, and the matrices it names: kept apart, so that none is copied before ONNX Runtime packs it."""

    graph: bytes
    matrices: dict[str, NDArray[Any]]


@dataclass
class Graph:
    """Nodes and constants while a graph grows. Tensors are named by number."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    matrices: dict[str, NDArray[Any]] = field(default_factory=dict)
    parent: Graph | None = None
    _count: int = 0

    def name(self) -> str:
        root = self
        while root.parent is not None:
            root = root.parent
        root._count += 1
        return f"t{root._count}"

    def constant(self, value: NDArray[Any] | np.generic, name: str | None = None) -> str:
        name = name or self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def matrix(self, value: NDArray[Any]) -> str:
        """A constant that stays outside the serialised graph."""
        name = self.name()
        self.matrices[name] = value
        tensor = onnx.TensorProto(
            name=name,
            dims=value.shape,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, setting in (("location", name), ("offset", "0"), ("length", str(value.nbytes))):
            tensor.external_data.add(key=key, value=setting)
        self.constants.append(tensor)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        output = output or self.name()
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def split(self, tensor: str, sizes: Sequence[int]) -> list[str]:
        return self.ops("Split", tensor, self.integers(*sizes), outputs=len(sizes), axis=1)

    def choose(
        self,
        condition: str,
        then: Callable[[Graph], list[str]],
        otherwise: Callable[[Graph], list[str]],
        types: Sequence[int],
    ) -> list[str]:
        """Only the branch that applies is computed; both fill a graph and name its results, of the same types."""
        branches = {}
        for attribute, fill in (("then_branch", then), ("else_branch", otherwise)):
            branch = Graph(parent=self)
            # A branch's results must be its own tensors, even when they are a condition's within.
            outputs = [branch.op("Identity", name) for name in fill(branch)]
            infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, types, strict=True)]
            branches[attribute] = helper.make_graph(branch.nodes, attribute, [], infos, branch.constants)
        return self.ops("If", condition, outputs=len(types), **branches)

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> Model:
        graph = helper.make_graph(self.nodes, "nextword", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return Model(model.SerializeToString(), self.matrices)
