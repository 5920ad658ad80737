"""Small classifiers on what the judges say, fitted on real clips; a judge that fails on real clips is left out by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .attributes import class_of, skill
from .hearing import Numbers

#: share of the way from chance to no mistakes that a judge must go on real clips to be heard, and the share of the
#: best judge's way; both are lenient: what decides is the vote
LEAST_SKILL, LEAST_SHARE_OF_BEST = 0.3, 0.75


@dataclass
class Opinion:
    """Who is heard about one attribute: the accuracy of each group on real clips, and the classifiers of those heard."""

    attribute: str
    accuracies: dict[str, float] = field(default_factory=dict)
    classifiers: dict[str, object] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, float]:
        return {name: value for name, value in self.accuracies.items() if name not in self.classifiers}

    def __call__(self, numbers: Sequence[Numbers]) -> list[str]:
        """The verdict on each clip: the class with the highest probability, each judge weighing what its skill is.

        "" if nobody is heard.
        """
        if not self.classifiers:
            return [""] * len(numbers)
        votes = [
            classifier.predict_proba(np.stack([n[name] for n in numbers]))  # type: ignore[attr-defined]
            for name, classifier in self.classifiers.items()
        ]
        classes = next(iter(self.classifiers.values())).classes_  # type: ignore[attr-defined]
        weights = [skill(self.accuracies[name], self.attribute) for name in self.classifiers]
        return [str(name) for name in classes[np.average(votes, axis=0, weights=weights).argmax(axis=1)]]


def form_opinion(attribute: str, numbers: Sequence[Numbers], values: Sequence[str], seed: int = 0) -> Opinion:
    """Fit one classifier for each group on real clips, and keep those that do well on clips they were not fitted on.

    Args:
        numbers: of each clip.
        values: the clips' truths; those of no class are passed over.
    """
    truths = np.array([class_of(attribute, value) for value in values])
    known = truths != ""
    opinion = Opinion(attribute)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    fitted = {}
    for name in numbers[0]:
        inputs = np.stack([n[name] for n in numbers])[known]
        tried = []
        for classifier in (_linear(), ExtraTreesClassifier(100, random_state=seed)):
            guesses = cross_val_predict(classifier, inputs, truths[known], cv=folds)
            tried.append((float(np.mean(guesses == truths[known])), classifier))
        accuracy, classifier = max(tried, key=lambda pair: pair[0])
        opinion.accuracies[name] = accuracy
        fitted[name] = (classifier, inputs)
    best = max(skill(accuracy, attribute) for accuracy in opinion.accuracies.values())
    least = max(LEAST_SKILL, LEAST_SHARE_OF_BEST * best)
    for name, (classifier, inputs) in fitted.items():
        if skill(opinion.accuracies[name], attribute) >= least:
            opinion.classifiers[name] = classifier.fit(inputs, truths[known])
    return opinion


def _linear():
    return make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
