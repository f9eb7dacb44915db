"""A recipe in use, and what operators changed: kept in the data folder, whole or not at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field, ValidationError

from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import BadImage, read_mask
from dskd.runtime.configuration.strict_yaml import Strict, first_fault
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import Backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Verdict
from dskd.runtime.station.batching import InspectionThread
from dskd.runtime.station.config import RecipeConfig

KEPT = "recipes.json"
LARGEST_KEPT = 1 << 20  # bytes
FAR = 2.0  # times the bundle's own reject threshold: what is beyond may have been set for another bundle
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What a camera inspects, how strictly, and what it says of a part that could not be inspected."""

    name: str
    job: int
    bundle: Bundle
    graph: str
    settings: Settings
    fail_safe: Verdict

    @property
    def model(self) -> tuple[str, str]:
        """Bundle id and graph: thresholds hold for the scores of these alone."""
        return self.bundle.id, self.graph

    def with_thresholds(self, review: float, reject: float) -> Recipe:
        """The same with other thresholds. Raises CallError where they make no sense."""
        return replace(self, settings=replace(self.settings, review=review, reject=reject))


@dataclass(frozen=True)
class Serving:
    """A recipe and the thread that inspects by it. Raises DskdError where they are of different bundles or graphs.

    A camera holds both in one field, so nobody sees the thresholds of one model beside another model's scores.
    """

    recipe: Recipe
    thread: InspectionThread

    def __post_init__(self) -> None:
        if self.recipe.model != self.thread.model:
            raise DskdError(
                f"recipe {self.recipe.name}: is for {' '.join(self.recipe.model)}, and {' '.join(self.thread.model)} "
                "runs; load the recipe again"
            )


class KeptThresholds(Strict):
    """Thresholds that a person set; they hold for one graph of one bundle, as long as the file says the same."""

    review: float
    reject: float
    bundle: str
    graph: str
    configured: tuple[float | None, float | None]


class KeptRecipe(Strict):
    """A camera's recipe that a person chose, as long as the file names the same one for the start."""

    recipe: str
    configured: str


class KeptState(Strict):
    """All of ``recipes.json``."""

    cameras: dict[str, KeptRecipe] = Field(default_factory=dict)
    thresholds: dict[str, KeptThresholds] = Field(default_factory=dict)


class Kept:
    """Reads and writes ``recipes.json``. What was said last holds: a person's change, or a later change of the file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / KEPT
        self._state = self._read()

    def recipe(self, camera: str, configured: str, known: dict[str, RecipeConfig]) -> str:
        """The recipe a camera starts with."""
        kept = self._state.cameras.get(camera)
        if kept is None or kept.configured != configured or kept.recipe not in known:
            return configured
        return kept.recipe

    def thresholds(self, name: str, config: RecipeConfig, bundle: Bundle, graph: str) -> tuple[float, float] | None:
        """Review and reject threshold that a person set for this recipe, None where they no longer apply."""
        kept = self._state.thresholds.get(name)
        if kept is None:
            return None
        if (kept.bundle, kept.graph, kept.configured) != (bundle.id, graph, (config.review, config.reject)):
            log.warning("recipe %s: thresholds set by hand are for another bundle or file; the file's hold", name)
            return None
        return kept.review, kept.reject

    def keep_recipe(self, camera: str, recipe: str, configured: str) -> None:
        """Remembers a camera's recipe."""
        entry = {camera: KeptRecipe(recipe=recipe, configured=configured)}
        self._write(self._state.model_copy(update={"cameras": {**self._state.cameras, **entry}}))

    def keep_thresholds(self, recipe: Recipe, config: RecipeConfig) -> None:
        """Remembers a recipe's thresholds."""
        entry = KeptThresholds(
            review=recipe.settings.review,
            reject=recipe.settings.reject,
            bundle=recipe.bundle.id,
            graph=recipe.graph,
            configured=(config.review, config.reject),
        )
        self._write(self._state.model_copy(update={"thresholds": {**self._state.thresholds, recipe.name: entry}}))

    def _write(self, state: KeptState) -> None:
        atomic.write_text(self._file, state.model_dump_json(indent=2) + "\n")
        self._state = state

    def _read(self) -> KeptState:
        try:
            with self._file.open("rb") as handle:
                return KeptState.model_validate_json(handle.read(LARGEST_KEPT))
        except FileNotFoundError:
            return KeptState()
        except (OSError, ValidationError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else error.strerror
            raise CallError(f"{self._file}: cannot be used ({reason}); mend or delete it") from error


def make_recipe(name: str, config: RecipeConfig, bundle: Bundle, backend: Backend, kept: Kept) -> Recipe:
    """A recipe for the graph that ``backend`` runs. Raises CallError where thresholds or mask make no sense."""
    own = Settings.of(bundle.manifest.graphs[backend.graph].thresholds)
    reject = own.reject if config.reject is None else config.reject
    review = min(own.review, reject) if config.review is None else config.review
    by_hand = kept.thresholds(name, config, bundle, backend.graph)
    if by_hand is None and reject > FAR * own.reject > 0:
        log.warning(
            "recipe %s: reject %g of the station file is far over the %g of bundle %s; was it set for another bundle?",
            name, reject, own.reject, bundle.id,
        )  # fmt: skip
    review, reject = by_hand or (review, reject)
    try:
        roi = None if config.roi is None else read_mask(config.roi)
        settings = Settings(review, reject, config.min_area, roi)
    except BadImage as error:
        raise CallError(f"recipe {name}: roi: {error}") from error
    except CallError as error:
        raise CallError(f"recipe {name}: {error}") from error
    return Recipe(name, config.job, bundle, backend.graph, settings, Verdict(config.fail_safe))
