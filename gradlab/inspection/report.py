"""What `check_layer` found, as fields, as text and as HTML."""

from __future__ import annotations

import html
import math
import textwrap
from dataclasses import dataclass, field

from ..estimators.conformance import Verdict

WIDTH = 100


@dataclass(frozen=True)
class LayerReport:
    """What a layer is and does at one pair of temperatures.

    values : "one-hot", "relaxed" or "other"
    temperature, temperature_low, temperature_high : the t of the softmax(l/t) that its codes follow (relaxed: their
        largest entries), with a 95 % interval; 0 where it takes the most probable category, infinite where the logits
        have no effect
    follows : whether they follow softmax(l/t) for some t
    same_as : labels of the catalogue entries that it equals, code by code and gradient by gradient
    without_effect : those of "tf" and "tb" that change nothing
    problems : sentences; empty if it does what its arguments say
    notes : further sentences, about what is no fault
    bias : by problem of `gradlab.estimators.conformance`, the relative bias of its gradient
    """

    name: str
    tf: float
    tb: float
    values: str
    temperature: float = math.nan
    temperature_low: float = math.nan
    temperature_high: float = math.nan
    follows: bool = False
    same_as: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bias: dict[str, Verdict] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether anything but the values is known; if not, its problem says why."""
        return not math.isnan(self.temperature)

    def rows(self) -> list[tuple[str, str]]:
        """What is shown, heading by heading."""
        law = "no softmax(l/t)"
        if self.follows:
            interval = f"[{self.temperature_low:.3g}, {self.temperature_high:.3g}]"
            law = f"softmax(l/t), t = {self.temperature:.4g} {interval}"
        of_bias = ", ".join(
            f"{100 * v.relative_bias:.0f} % ± {100 * v.standard_error / v.exact_norm:.1f} on {name}"
            for name, v in self.bias.items()
        )
        unknown = "" if self.measured else "not measured"
        return [
            ("values", self.values),
            ("codes follow", unknown or law),
            ("is", unknown or " and ".join(self.same_as) or "no entry of the catalogue"),
            ("without effect", unknown or ", ".join(self.without_effect) or "nothing"),
            ("bias", of_bias or "not measured"),
            ("problems", "none found" if not self.problems else f"{len(self.problems)}"),
        ]

    def __str__(self) -> str:
        lines = [f"{self.name} at tf = {self.tf:g}, tb = {self.tb:g}"]
        lines += [f"  {heading + ':':16}{text}" for heading, text in self.rows()]
        for mark, sentences in (("!", self.problems), ("-", self.notes)):
            lines += [line for text in sentences for line in _wrapped(text, mark)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(heading)}</th><td style='text-align:left'>"
            f"{html.escape(text)}</td></tr>"
            for heading, text in self.rows()
        )
        listed = "".join(f"<li>{html.escape(text)}</li>" for text in [*self.problems, *self.notes])
        title = html.escape(f"{self.name} at tf = {self.tf:g}, tb = {self.tb:g}")
        return f"<p><b>{title}</b></p><table>{rows}</table>" + (f"<ul>{listed}</ul>" if listed else "")


def _wrapped(text: str, mark: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {mark} ", subsequent_indent="    ")
