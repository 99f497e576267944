"""Which stages each click model is trained in, and how one stage's model is made from the last."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, assert_never

import numpy as np
import torch
from torch import nn

from isthmus.data.dataset import Dataset
from isthmus.data.features import ranking_sizes, table_sizes
from isthmus.data.loader import num_kept
from isthmus.errors import InputError, did_you_mean
from isthmus.models.cdanet import AugmentationNetwork, CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRModel, CTRSettings
from isthmus.models.ddtcdr import DDTCDRModel, DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings, KnowledgeExtractor, PlugInModel
from isthmus.models.ranker import AnyRankingSettings
from isthmus.training.epochs import EpochReport
from isthmus.training.ranking import RankingTrainingSettings, Stage, train_stage
from isthmus.training.runs import read_reports

ALL_SIDES = ("user", "context", "item", "row")
Built = TypeVar("Built")


class StageTrainer:
    """Trains one stage after the other, each in a folder of its own under `folder`.

    Args:
        on_epoch: hears of every epoch that is trained now, when `reports` has it and all before it.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: AnyRankingSettings,
        training: RankingTrainingSettings,
        folder: Path,
        device: torch.device,
        on_epoch: Callable[[EpochReport], None],
        *,
        show_progress: bool,
    ) -> None:
        self.dataset, self.settings, self.training = dataset, settings, training
        self.folder, self.device = folder, device
        self.on_epoch, self.show_progress = on_epoch, show_progress
        self.num_stages = 0
        self.reports: list[EpochReport] = []

    def train(
        self, model: nn.Module, name: str, domains: Sequence[int], *, alpha: float = 0.0, beta: float = 0.0
    ) -> None:
        """Train a stage from where an earlier training of it stopped; the model ends with its best weights."""
        shares = kept_shares(self.dataset, self.training)
        stage = Stage(name, self.num_stages, tuple(domains), self.settings.fields, alpha, beta, shares)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self.num_stages += 1
        self.reports += read_reports(folder)

        def on_epoch(report: EpochReport) -> None:
            self.reports.append(report)
            self.on_epoch(report)

        train_stage(
            self.dataset,
            model.to(self.device),
            stage,
            self.training,
            folder=folder,
            device=self.device,
            on_epoch=on_epoch,
            show_progress=self.show_progress,
        )


def train_stages(trainer: StageTrainer) -> nn.Module:
    """Train all stages of the model that the trainer's settings describe; gives what is saved and scored."""
    dataset, settings, training = trainer.dataset, trainer.settings, trainer.training
    trained_on = domain_numbers(dataset, training.domains, "training.domains")
    match settings:
        case CTRSettings() | DDTCDRSettings() | FactorisationMachineSettings():
            model = new_ranking_model(dataset, settings, training)
            trainer.train(model, "click", trained_on)
            return model
        case KEEPSettings():
            extractor = seeded(training.seed, lambda: KnowledgeExtractor(settings, **model_sizes(dataset, settings)))
            trainer.train(extractor, "knowledge", trained_on)
            plug_in = new_plug_in(dataset, settings, extractor, training)
            trainer.train(plug_in, "plug-in", targets_of(dataset, settings, training))
            return plug_in
        case CDAnetSettings():
            translation = new_translation(dataset, settings, training)
            if settings.stages != "augmentation":
                trainer.train(translation, "translation", trained_on, alpha=settings.alpha, beta=settings.beta)
            augmentations = {}
            for target in augmented(dataset, settings, training):
                augmentations[target] = new_augmentation(translation, target, training)
                trainer.train(augmentations[target], f"augmentation-{target}", [target], beta=settings.beta)
            return CDAnet(translation, augmentations)
        case other:
            assert_never(other)


def new_ranking_model(dataset: Dataset, settings: AnyRankingSettings, training: RankingTrainingSettings) -> nn.Module:
    """An untrained model of the form that training ends with; its numbers depend on the training's seed alone.

    Raises:
        InputError: the dataset has no labelled rows, or the settings name a field or a domain that it does not have.
    """
    if dataset.impressions is None:
        raise InputError(
            f"{dataset.path}: has no labelled rows to rank; declare 'ranking' in the log's YAML and prepare again"
        )
    domain_numbers(dataset, training.domains, "training.domains")
    kept_shares(dataset, training)
    sizes = model_sizes(dataset, settings)
    match settings:
        case CTRSettings():
            return seeded(training.seed, lambda: CTRModel(settings, **sizes))
        case DDTCDRSettings():
            return seeded(training.seed, lambda: DDTCDRModel(settings, **sizes))
        case FactorisationMachineSettings():
            return seeded(training.seed, lambda: FactorisationMachine(settings, **sizes))
        case KEEPSettings():
            targets_of(dataset, settings, training)
            extractor = seeded(training.seed, lambda: KnowledgeExtractor(settings, **sizes))
            return new_plug_in(dataset, settings, extractor, training)
        case CDAnetSettings():
            translation = new_translation(dataset, settings, training)
            targets = augmented(dataset, settings, training)
            return CDAnet(translation, {target: new_augmentation(translation, target, training) for target in targets})
        case other:
            assert_never(other)


def new_translation(
    dataset: Dataset, settings: CDAnetSettings, training: RankingTrainingSettings
) -> TranslationNetwork:
    """CDAnet's first stage, untrained."""
    domain_numbers(dataset, tuple(settings.own_extractors), "ranking.own_extractors")
    sizes = model_sizes(dataset, settings)
    del sizes["num_domains"]
    names = dataset.schema.domain_names
    return seeded(training.seed, lambda: TranslationNetwork(settings, domain_names=names, **sizes))


def new_augmentation(
    translation: TranslationNetwork, target: int, training: RankingTrainingSettings
) -> AugmentationNetwork:
    """CDAnet's second stage for one target: the first stage's parts as they are now, and a new tower.

    Where `later_rate_factor` is 0, those parts stay so.
    """
    network = seeded(training.seed + 1 + target, lambda: AugmentationNetwork(translation, target))
    if training.later_rate_factor == 0:
        for parameter in network.carried():
            parameter.requires_grad_(False)
    return network


def new_plug_in(
    dataset: Dataset, settings: KEEPSettings, extractor: KnowledgeExtractor, training: RankingTrainingSettings
) -> PlugInModel:
    """KEEP's second stage around the extractor as it is now."""
    return seeded(training.seed + 1, lambda: PlugInModel(settings, extractor, **model_sizes(dataset, settings)))


def model_sizes(dataset: Dataset, settings: AnyRankingSettings) -> dict[str, Any]:
    """What every click model is told of the dataset."""
    try:
        return {
            "num_domains": dataset.num_domains,
            "sizes": ranking_sizes(dataset, settings.fields),
            "table_rows": table_sizes(dataset, settings.fields, ALL_SIDES),
        }
    except ValueError as error:
        raise InputError(f"ranking.fields: {error}") from error


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """What `build` makes of random numbers that the seed alone decides."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def augmented(dataset: Dataset, settings: CDAnetSettings, training: RankingTrainingSettings) -> tuple[int, ...]:
    """The domains that get an augmentation network."""
    targets = targets_of(dataset, settings, training)
    return () if settings.stages == "translation" else targets


def judged_domains(
    dataset: Dataset, settings: AnyRankingSettings, training: RankingTrainingSettings
) -> tuple[int, ...]:
    """Numbers of the domains that the model is for, and validated on."""
    if isinstance(settings, CDAnetSettings | KEEPSettings):
        return targets_of(dataset, settings, training)
    return domain_numbers(dataset, training.domains, "training.domains")


def targets_of(
    dataset: Dataset, settings: CDAnetSettings | KEEPSettings, training: RankingTrainingSettings
) -> tuple[int, ...]:
    """Numbers of the target domains: those named, else all that are trained on."""
    if settings.targets is None:
        return domain_numbers(dataset, training.domains, "training.domains")
    return domain_numbers(dataset, settings.targets, "ranking.targets")


def kept_shares(dataset: Dataset, training: RankingTrainingSettings) -> tuple[float, ...]:
    """Of each domain's negatives, the share that is trained on: of few, not quite the one that is asked for.

    Raises:
        InputError: a domain that is named is not a declared one.
    """
    share, names = training.negative_share, dataset.schema.domain_names
    if isinstance(share, dict):
        domain_numbers(dataset, tuple(share), "training.negative_share")
    asked = [share.get(name, 1.0) if isinstance(share, dict) else share for name in names]
    if all(one == 1 for one in asked):
        return tuple(asked)
    assert dataset.impressions is not None
    train = dataset.impressions["train"]
    assert train.label is not None
    negatives = np.bincount(train.domain[np.asarray(train.label) <= 0], minlength=len(names)) * training.train_share
    return tuple(
        num_kept(one, round(n)) / round(n) if round(n) else one for one, n in zip(asked, negatives, strict=True)
    )


def domain_numbers(dataset: Dataset, names: Sequence[str] | None, key: str) -> tuple[int, ...]:
    """The numbers of named domains, ascending; of all where None.

    Raises:
        InputError: a name is not a declared domain.
    """
    declared = dataset.schema.domain_names
    for name in names or ():
        if name not in declared:
            hint = did_you_mean(name, declared) or f"; declared are {', '.join(declared)}"
            raise InputError(f"{key}: {name!r} is not a domain of the dataset{hint}")
    return tuple(number for number, name in enumerate(declared) if names is None or name in names)
