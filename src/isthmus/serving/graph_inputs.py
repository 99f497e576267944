"""Features as the named tensors that an exported graph takes, and back."""

from collections.abc import Mapping

from torch import Tensor

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes


def user_inputs(features: Features) -> dict[str, Tensor]:
    """The inputs of a user tower, by name."""
    return _inputs(features, "user")


def ranking_inputs(features: RankingFeatures) -> dict[str, Tensor]:
    """The inputs of a click model, by name."""
    return {
        **_inputs(features.user, "user"),
        **_inputs(features.item, "item"),
        **_inputs(features.row, "row"),
    }


def user_features(inputs: Mapping[str, Tensor], sizes: FeatureSizes) -> Features:
    """What `user_inputs` was given."""
    return _features(inputs, "user", sizes)


def ranking_features(inputs: Mapping[str, Tensor], sizes: RankingSizes) -> RankingFeatures:
    """What `ranking_inputs` was given."""
    return RankingFeatures(
        _features(inputs, "user", sizes.user),
        _features(inputs, "item", sizes.item),
        _features(inputs, "row", sizes.row),
    )


def _inputs(features: Features, side: str) -> dict[str, Tensor]:
    inputs = {f"{side}_categorical": features.categorical, f"{side}_number": features.number}
    for place, bag in enumerate(features.bags):
        inputs[f"{side}_list_{place}"] = bag.values
        inputs[f"{side}_list_{place}_offsets"] = bag.offsets
    for place, text in enumerate(features.text):
        inputs[f"{side}_text_{place}"] = text
    return inputs


def _features(inputs: Mapping[str, Tensor], side: str, sizes: FeatureSizes) -> Features:
    bags = tuple(
        Bag(inputs[f"{side}_list_{place}"], inputs[f"{side}_list_{place}_offsets"]) for place in range(len(sizes.bags))
    )
    text = tuple(inputs[f"{side}_text_{place}"] for place in range(len(sizes.text_dims)))
    return Features(inputs[f"{side}_categorical"], bags, inputs[f"{side}_number"], text)
