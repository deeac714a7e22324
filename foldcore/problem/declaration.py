"""What a problem declares beside its functions: parameters, bounds, atoms and constants, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..atoms import Regularizer, SetAtom
from ..errors import ProblemError
from ..param import Param
from ..program.user_function import MODULE

Bound = float | Tensor | Param | None


class Declaration:
    """The named inputs of a :class:`Problem`.

    Attributes:
        n: Number of variables.
        bounds: "lower" and "upper" where given.
        atoms: The sets and regularizers, under prefixes that are unique.
        params: All parameters by name: declared ones, bounds and those of atoms.
        constants: Constant bounds and constants of atoms, by name.
        modules: The module under its name, if there is one.

    Raises:
        ProblemError: If a name is unusable or repeats, or a shape is wrong.
    """

    def __init__(
        self,
        n: int,
        params: Mapping[str, Param],
        bounds: Mapping[str, Bound],
        sets: Sequence[SetAtom],
        regularizers: Sequence[Regularizer],
        module: nn.Module | None,
    ) -> None:
        self.n = n
        self.modules: Mapping[str, nn.Module] = {} if module is None else {MODULE: module}
        self.bounds = {
            name: _as_bound(name, bound, n) for name, bound in bounds.items() if bound is not None
        }
        self.atoms: dict[str, SetAtom | Regularizer] = {}
        self.atoms.update({f"set{i}": atom for i, atom in enumerate(sets)})
        self.atoms.update({f"regularizer{i}": atom for i, atom in enumerate(regularizers)})
        for atom in self.atoms.values():
            atom.check(n)
        self.params = self._collect_params(dict(params))
        self.constants = {
            name: bound for name, bound in self.bounds.items() if isinstance(bound, Tensor)
        }
        for prefix, atom in self.atoms.items():
            self.constants.update(atom.constants(prefix))

    def _collect_params(self, declared: dict[str, Param]) -> dict[str, Param]:
        for name, param in declared.items():
            if not isinstance(param, Param):
                raise ProblemError(
                    f"Problem: params[{name!r}] is a {type(param).__name__}, expected a Param."
                )
            if not name.isidentifier() or name in (MODULE, "x"):
                raise ProblemError(f"Problem: {name!r} is no usable parameter name.")
        found = dict(declared)
        extra: list[tuple[str, Param]] = [
            (bound.name or name, bound)
            for name, bound in self.bounds.items()
            if isinstance(bound, Param)
        ]
        for prefix, atom in self.atoms.items():
            extra.extend(atom.params(prefix).items())
        for name, param in extra:
            if found.setdefault(name, param) is not param:
                raise ProblemError(
                    f"Problem: parameter name {name!r} is used twice; give one of them "
                    f"Param(..., name=...)."
                )
        return found

    def example(self) -> dict[str, Tensor]:
        """Return positive values for all parameters; nothing that is concluded depends on them."""
        values: dict[str, Tensor] = dict(self.constants)
        for name, param in self.params.items():
            count = int(torch.Size(param.shape).numel())
            value = torch.linspace(0.5, 1.0, count, dtype=torch.float64).reshape(param.shape)
            if param.psd:
                value = torch.eye(param.shape[-1], dtype=torch.float64).expand(param.shape)
            values[name] = value
        for name, module in self.modules.items():
            for key, state in (*module.named_parameters(), *module.named_buffers()):
                detached = state.detach()
                values[f"{name}.{key}"] = (
                    detached.double() if detached.is_floating_point() else detached
                )
        return values

    def bound_values(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of "lower" and "upper" where there are such bounds."""
        return {
            name: values[(bound.name or name) if isinstance(bound, Param) else name]
            for name, bound in self.bounds.items()
        }

    def bound_atoms(self, values: Mapping[str, Tensor]) -> list[SetAtom | Regularizer]:
        """Return the atoms with their fields replaced by values."""
        return [atom.bind(values, prefix) for prefix, atom in self.atoms.items()]

    def varying_atoms(self) -> frozenset[str]:
        """Return "sets" and "regularizers" as far as one of these depends on a parameter."""
        kinds = {"sets": SetAtom, "regularizers": Regularizer}
        return frozenset(
            name
            for name, kind in kinds.items()
            if any(a.params(p) for p, a in self.atoms.items() if isinstance(a, kind))
        )

    def may_be_infinite(self, name: str) -> bool:
        """Whether ±inf is allowed in a parameter, because it is a bound."""
        bounds = {
            bound.name or field for field, bound in self.bounds.items() if isinstance(bound, Param)
        }
        return name in bounds or any(atom.may_be_infinite(name) for atom in self.atoms.values())


def _as_bound(name: str, bound: float | Tensor | Param, n: int) -> Tensor | Param:
    if isinstance(bound, (int, float)):
        bound = torch.full((n,), float(bound), dtype=torch.float64)
    if tuple(bound.shape) != (n,):
        raise ProblemError(f"Problem: {name} has shape {tuple(bound.shape)}, expected ({n},).")
    if isinstance(bound, Tensor) and (bool(bound.isnan().any()) or bound.requires_grad):
        what = "needs a gradient; declare it as a Param" if bound.requires_grad else "contains NaN"
        raise ProblemError(f"Problem: {name} {what}.")
    return bound
