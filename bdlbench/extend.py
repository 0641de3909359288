"""The one import for authors of methods, models, data sets, metrics and likelihoods.

    from bdlbench.extend import Layout, Plan, Point, WeightPosterior, fit_network, last, option

The names in this module and in `bdlbench.api` are public: they are documented, and deprecated before they go.
Everything else may change without notice. docs/plugins.md lists what each name is for.
"""

from __future__ import annotations

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout, Leaf, PerRow, per_row
from bdlbench.core.options import option, repeat_rows
from bdlbench.core.streams import Streams
from bdlbench.data.downloads import array_checksum
from bdlbench.data.splits import column_statistics, random_split, stratified_split
from bdlbench.data.task import Data, Examples, RawInputs, Shift, Signature, Task
from bdlbench.kernels.convolution import Conv2d
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.linear import dense, product
from bdlbench.networks.from_module import from_module
from bdlbench.networks.layers import Dropout, Point
from bdlbench.networks.likelihoods import output, unsupported
from bdlbench.posteriors.ensemble import mixture_of_points
from bdlbench.posteriors.fitting import (
    fit_network,
    gaussian_prior,
    initial_network,
    is_linear,
    prior_of,
    trained_elbo,
    training_option,
)
from bdlbench.posteriors.kept_networks import keep_networks, mixture_of_kept
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.point import point_posterior
from bdlbench.posteriors.trainers import from_trainer
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import Categorical, CategoricalSum, GaussianMixture, ordered_sum
from bdlbench.protocols import Evaluation, Method, Metric, Model, Moments, Posterior
from bdlbench.stats.calibration import expected_calibration_error, top_class
from bdlbench.stats.rows import each_row
from bdlbench.stats.selective import risk_coverage
from bdlbench.training.loop import Collect, last, minimise, predicted
from bdlbench.training.optimisers import Update
from bdlbench.training.plan import Plan
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

__all__ = [
    "BadInput",
    "Categorical",
    "CategoricalSum",
    "Collect",
    "Conv2d",
    "Data",
    "Dropout",
    "Evaluation",
    "Examples",
    "GaussianMixture",
    "Layout",
    "Leaf",
    "Method",
    "Metric",
    "Model",
    "Moments",
    "PerRow",
    "Plan",
    "Point",
    "Posterior",
    "RawInputs",
    "Recipe",
    "Shift",
    "Signature",
    "Streams",
    "Task",
    "Update",
    "WeightPosterior",
    "array_checksum",
    "column_statistics",
    "dense",
    "each_row",
    "expected_calibration_error",
    "factorised_moments",
    "fit_network",
    "from_module",
    "from_trainer",
    "gaussian_prior",
    "initial_network",
    "is_linear",
    "keep_networks",
    "last",
    "minimise",
    "mixture_of_kept",
    "mixture_of_points",
    "negative_elbo",
    "option",
    "ordered_sum",
    "output",
    "per_row",
    "point_posterior",
    "predicted",
    "prior_of",
    "product",
    "random_split",
    "repeat_rows",
    "risk_coverage",
    "stratified_split",
    "term",
    "top_class",
    "trained_elbo",
    "training_option",
    "unsupported",
]
