"""Cleaning of columns: missing values, duplicates, types, outliers, filters and classes.

Statistics are learned from the training examples only, saved with the model, and applied to
evaluation data and in serving.

Example:

    from tfbig.data import cleaning as c

    cleaning = c.Cleaning([
        c.FixTypes({"age": "float32"}),
        c.FillMissing(strategy="median"),
        c.ClipOutliers(method="iqr"),
        c.Balance(method="weights"),
    ])
    train = cleaning.fit(source.select(split.train))
    test = cleaning.apply(source.select(split.test))
    print(cleaning.report)
    tfbig.export(result.model, "runs/adult/export", preprocessing=cleaning)
"""

from tfbig.data.cleaning.balance import Balance
from tfbig.data.cleaning.cleaning import Cleaning
from tfbig.data.cleaning.fix_types import FixTypes
from tfbig.data.cleaning.missing import DropMissing, FillMissing
from tfbig.data.cleaning.outliers import ClipOutliers, DropOutliers
from tfbig.data.cleaning.report import Pass, Report, StepCount
from tfbig.data.cleaning.rows import DropDuplicates, Filter
from tfbig.data.cleaning.step import Step

__all__ = [
    "Balance",
    "Cleaning",
    "ClipOutliers",
    "DropDuplicates",
    "DropMissing",
    "DropOutliers",
    "FillMissing",
    "Filter",
    "FixTypes",
    "Pass",
    "Report",
    "Step",
    "StepCount",
]
