"""What an analysis is: a claim, measured and judged. Imports neither torch nor the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import xarray as xr

    from .run_options import RunOptions
    from .verdicts import Verdict

BUDGETS = ("quick", "standard", "paper")  # ten minutes on two cores; some hours there; a GPU or a cluster


class Analysis(Protocol):
    """A claim about gradients or trainings that can be measured and judged.

    The class needs no base; `analyses.analysis` registers it:

        @analysis("my-figure", takes=("images", "draws"))
        class MyFigure:
            \"\"\"Bias of ReinMax falls as tf rises.\"\"\"

    Its docstring says in the first line what it claims, then how the claim is measured and judged. An instance is made
    without arguments.
    """

    name: ClassVar[str]  # these four are set by the decorator
    takes: ClassVar[tuple[str, ...]]
    also_from: ClassVar[tuple[str, ...]]
    claim: ClassVar[str]

    def cost(self, budget: str) -> str:
        """What the budget buys, in words: draws, images, trainings. Answers at once."""

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """Measures, and continues from the files of an interrupted run in `options.folder`.

        The Dataset is one that gradlab can show: of a kind in gradlab.kinds, which its attribute `analysis` names.
        """

    def judge(self, ds: xr.Dataset) -> Sequence[Verdict]:
        """The verdict on each claim, from the Dataset alone. Raises KeyError for what is not in it."""

    def draw(self, ds: xr.Dataset) -> Any:
        """The figure, a matplotlib Figure of gradlab.plots or of the analysis's own, from the Dataset alone."""
