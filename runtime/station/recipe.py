"""A recipe in use, and what operators changed: kept in the data folder, whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
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

OVERRIDES_FILE = "recipes.json"
LARGEST_FILE = 1 << 20  # bytes
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


class SavedThresholds(Strict):
    """Thresholds that a person set; they hold for one bundle, as long as the file says the same.

    Those of the page are for one of its graphs, those of ``dskd recalibrate`` for the backend that gave the scores.
    """

    review: float
    reject: float
    bundle: str
    graph: str = ""
    backend: str = ""
    configured: tuple[float | None, float | None]


class SavedRecipe(Strict):
    """A camera's recipe that a person chose, as long as the file names the same one for the start."""

    recipe: str
    configured: str


class SavedOverrides(Strict):
    """All of ``recipes.json``."""

    cameras: dict[str, SavedRecipe] = Field(default_factory=dict)
    thresholds: dict[str, SavedThresholds] = Field(default_factory=dict)


class OperatorOverrides:
    """Reads and writes ``recipes.json``. What was said last holds: a person's change, or a later change of the file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / OVERRIDES_FILE
        self._state = self._read()

    def recipe(self, camera: str, configured: str, known: dict[str, RecipeConfig]) -> str:
        """The recipe a camera starts with."""
        saved = self._state.cameras.get(camera)
        if saved is None or saved.configured != configured or saved.recipe not in known:
            return configured
        return saved.recipe

    def thresholds(
        self, name: str, config: RecipeConfig, bundle: Bundle, backend: Backend
    ) -> tuple[float, float] | None:
        """Review and reject threshold that a person set for this recipe, None where they no longer apply."""
        saved = self._state.thresholds.get(name)
        if saved is None:
            return None
        same = saved.graph == backend.graph if saved.graph else saved.backend == backend.name
        if not same or (saved.bundle, saved.configured) != (bundle.id, (config.review, config.reject)):
            log.warning("recipe %s: thresholds set by hand are for another bundle or file; the file's hold", name)
            return None
        return saved.review, saved.reject

    def save_recipe(self, camera: str, recipe: str, configured: str) -> None:
        """Remembers a camera's recipe."""
        with self._newest_state() as state:
            state.cameras[camera] = SavedRecipe(recipe=recipe, configured=configured)

    def save_thresholds(self, recipe: Recipe, config: RecipeConfig) -> None:
        """Remembers a recipe's thresholds."""
        entry = SavedThresholds(
            review=recipe.settings.review,
            reject=recipe.settings.reject,
            bundle=recipe.bundle.id,
            graph=recipe.graph,
            configured=(config.review, config.reject),
        )
        self.save(recipe.name, entry)

    def save(self, recipe: str, thresholds: SavedThresholds) -> Path:
        """Remembers thresholds of a recipe by its name; returns the file."""
        with self._newest_state() as state:
            state.thresholds[recipe] = thresholds
        return self._file

    @contextmanager
    def _newest_state(self) -> Iterator[SavedOverrides]:
        """What the file says now, to be changed: ``dskd recalibrate`` writes it beside a running station."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._file.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            state = self._read()
            yield state
            atomic.write_text(self._file, state.model_dump_json(indent=2) + "\n")
            self._state = state
        finally:
            os.close(handle)

    def _read(self) -> SavedOverrides:
        try:
            with self._file.open("rb") as handle:
                return SavedOverrides.model_validate_json(handle.read(LARGEST_FILE))
        except FileNotFoundError:
            return SavedOverrides()
        except (OSError, ValidationError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else error.strerror
            raise CallError(f"{self._file}: cannot be used ({reason}); mend or delete it") from error


def make_recipe(
    name: str, config: RecipeConfig, bundle: Bundle, backend: Backend, overrides: OperatorOverrides
) -> Recipe:
    """A recipe for the graph that ``backend`` runs. Raises CallError where thresholds or mask make no sense."""
    own = Settings.of(bundle.manifest.graphs[backend.graph].thresholds)
    reject = own.reject if config.reject is None else config.reject
    review = min(own.review, reject) if config.review is None else config.review
    by_hand = overrides.thresholds(name, config, bundle, backend)
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
