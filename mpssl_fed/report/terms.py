"""One line for each word of a page that not every reader knows; a page prints those that it uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpssl_fed.config import draws_from_generator

Terms = list[tuple[str, str]]
"""(term, one line)."""

LEARNING = {
    "site": "One data owner, who trains on its own images; only weights of the classifier leave it.",
    "round": "The server sends its model to the sites, each trains it for some steps, the server averages what comes back.",
    "accuracy": "Share of held-out images that are classified correctly.",
    "chance": "What always naming the most common class would get right.",
    "95 % interval": "Range that holds the true value 19 times in 20, if nothing but luck is at work.",
    "loss": "Cross-entropy: how surprised the model is by the right answers. Lower is better; ln(number of classes) is ignorance.",
}
METRICS = {
    "balanced accuracy": "Mean over the classes of the share of their images that is classified correctly: all count alike.",
    "macro F1": "Mean over the classes of 2 TP / (2 TP + FP + FN), which weighs missed images and false alarms alike.",
    "AUROC": "How often an image of a class gets a higher probability of it than one of another class; 50 % is chance.",
    "average precision": "Area under the curve of precision against recall of a class; chance is the share of its images.",
    "sensitivity": "Of the images of a class, the share that is named it (recall).",
    "specificity": "Of the images of all other classes, the share that is not named it.",
    "Brier score": "Mean squared distance of the probabilities from the truth; lower is better, 0 is perfect.",
    "expected calibration error": "Mean distance between probability and share right over the bins; of few images it is too large.",
    "probability": "What the model gives the class that it names.",
    "Wilson": "Interval of a share (Wilson 1927), each image a draw of its own.",
}
METHODS = {
    "base": "Learns from the labelled images alone, without a generator.",
    "base-train-only": "`base` without the images that methods with a generator keep for validation.",
    "naive-gssl": "Adds FreeMatch pseudo-labels on the generator's random images.",
    "p-ssl": "Adds FreeMatch on images generated for what a foundation classifier sees in the site's own.",
    "mp-ssl-wo-scr": "MP-SSL with FreeMatch in place of its consistency loss SCR.",
    "mp-ssl-wo-lmo": "MP-SSL without latent meta-optimisation: SCR on random synthetic images.",
    "mp-ssl": "Adds SCR on synthetic images whose latents are optimised to lower the validation loss (arXiv 2309.16143).",
    "ssl-real": "Reference: FreeMatch on real unlabelled images, which no real site would have.",
    "vic-gssl": "Adds VICReg, a loss on features, on the generator's random images.",
    "mp-ssl+": "VICReg on a large buffer of synthetic images, half of them with optimised latents.",
    "generator-only": "No site is asked: what the public generator alone teaches.",
    "fedprox": "`base` with a proximal term that holds each site near the global model.",
    "linear-random": "A linear head on the features of a random network.",
    "linear-pixels": "A linear head on raw pixels.",
    "linear-hog": "A linear head on HOG features (histograms of edge directions).",
    "federated-gssl": "`base` that starts warm from the public generator and whose sites are held together by an anchor.",
}
AUGMENTATIONS = {
    "none": "Labelled images are seen as they are in each step.",
    "weak": "Labelled images are shifted, turned and scaled a little in each step.",
    "half-strong": "Half of the labelled images of a step are distorted strongly, the others weakly.",
}
SPLITS = {
    "iid": "Labelled images are dealt to the sites at random.",
    "column": "Each image is at the site that the data name for it.",
    "dirichlet": "Sites hold different shares of each class, drawn from a Dirichlet distribution; a small alpha is far from even.",
    "pathological": "Each site holds a few classes only.",
    "quantity": "Sites hold different numbers of images.",
}
SETTINGS = {
    "local step": "One step of the optimiser at one site.",
    "generator": "Frozen public network that draws images on the site's own machine; it has seen none of its data.",
    "warm start": "Training at the server on the public generator's images before round 1; reads no private image.",
    "anchor": "Holds a site's model to the global model's answers on fixed synthetic images.",
    "validation": "Evaluated on a part of the training pool that no site got, so that the test set stays unseen while tuning.",
}
RUN = {
    "missing or late": "Sites that were asked and did not answer before the round's deadline.",
    "left out": "Replies that the server could not use or a site refused, by reason.",
}
PRIVACY = {
    "epsilon": "Bound on what anyone can learn about one unit from all that was sent: below 1 strong, above 10 weak.",
    "delta": "Probability with which the bound of epsilon may fail.",
    "unit": "What the guarantee hides: one image, or all images of one subject, at one site.",
    "scope": "What epsilon covers: end-to-end every read of a private image, labelled-step the supervised gradient alone.",
    "sigma": "Standard deviation of a release's noise, in clips.",
    "clip": "Longest contribution of one unit to a release; longer ones are scaled down.",
    "release": "A noised answer about private images, recorded in the site's ledger before it is computed.",
    "sample rate q": "Chance of each unit to be in a step's draw.",
    "public size": "Round number of units at a site that its owner declares; never counted from the data.",
    "ledger": "The site's durable record of releases; spending is never refunded.",
    "objections": "What a ledger holds against the number beside it: reads without noise, or a file that cannot be trusted.",
}
STUDY = {
    "arm": "One combination of settings; its runs differ in their seed alone.",
    "cell": "One run: an arm with one seed.",
    "seed": "Number from which everything random in a run follows but the noise of privacy.",
    "baseline": "The arm that others are compared with, all other settings being equal.",
    "n": "Number of seeds, or of pairs of seeds, behind a number.",
    "difference": "Arm minus the arm it is compared with, seed by seed, with its 95 % interval.",
    "primary": "Declared before the run: the few comparisons that the study is there for, tested apart from all others.",
    "exploratory": "Not declared before the run: worth a study of its own, no proof.",
    "p": "Chance of a difference at least as large if the arms were equally good (paired t-test).",
    "p, corrected": "The same after Holm's correction for the number of primary comparisons; below 0.05 counts.",
    "q": "Of exploratory comparisons with a q this small, this share is expected to be false (Benjamini and Hochberg).",
    "verdict": "Better or worse where the corrected p, or q, is below 0.05 over at least 3 seeds, else within noise.",
    "best accuracy": "Accuracy of the best round, chosen on the very images it is measured on: flattering.",
}
KEYS = {
    "variant": "Settings that the study file puts together under this name.",
    "method.name": "What a site learns from besides its labelled images.",
    "method.augment": "How strongly labelled images are distorted while training.",
    "data.labels_per_class": "Labelled images of each class, on average per site unless the study says otherwise.",
    "data.partition": "How labelled images are dealt to the sites.",
    "warm_start.part": "What is trained at the server before round 1: the body, the head, both or none.",
    "privacy.epsilon": "Budget of the whole run at a site; none: no privacy, or no site is asked.",
}
"""Config key -> what it sets, where a study compares its values."""

COST = {
    "ms per step": "Milliseconds of wall clock that a site takes per optimiser step, those of generating included.",
    "of it generating": "The part in which the generator draws images.",
    "CPU ms per step": "Milliseconds of processor time per step, evaluation included.",
    "generator images per step": "Images that pass through the generator per step.",
    "peak memory": "Most memory that the process held at once, libraries included.",
    "s per run": "Seconds of wall clock of a run.",
    "s to": "Seconds until a run first had this accuracy, and how many runs ever did.",
}
GAIN = {
    "gain": "Difference from the baseline with the same number of labels, in points of the metric.",
    "better up to": "Largest number of labels at which the arm is better beyond noise.",
}
GATE = {
    "of the oracle's": "Share of what the arm gains that draws from the classes that show the task's.",
    "standard error": "Of a mean over seeds: about two of them are what chance moves it by.",
    "gate": "Open where knowing the right classes gains more than two standard errors: there an optimiser of the choice can win.",
}
PARETO = {
    "attack AUROC": "Chance that a membership attack ranks a training image above another one; 0.5 is a coin.",
    "largest": "The attack's success in the run in which it came farthest.",
    "Pareto front": "Arms to which no other is better at the same or a smaller epsilon.",
    "against": "The arm that the one before it is compared with.",
    "asked": "The epsilon that the config sets.",
    "planned": "The epsilon of the whole plan, which sigma is solved for.",
    "ledgers": "How many ledgers of sites are here, over all seeds.",
    "spent": "The epsilon of all releases in a site's ledger.",
}
DIAGNOSIS = {
    "gap": "Squared distance between the mean features of synthetic and real images, over the spread of real ones; 0 is best.",
    "coverage": "Share of real images with a synthetic one nearer than their fifth real neighbour.",
    "precision": "Share of synthetic images that are that near to a real one.",
    "reach": "Coverage on a scale from that of noise (0 %) to that of other real images (100 %).",
    "spread": "Standard deviation over images.",
    "cosine": "Likeness of two images to the model: 1 is the same direction of features, 0 none.",
    "rank": "Number of directions that the features fill; few mean that images look alike to the model.",
    "collapsed": "Different images have become the same to the model.",
    "two images": "Cosine of views of two different images: near 1 where the model has collapsed.",
    "views": "Two augmented versions of one image, one weak and one strong.",
}


LATENTS = {
    "mass": "Chance of an image to be drawn from generator classes that show the task's; their share of all classes is chance.",
    "perplexity": "How many generator classes a task class is drawn from, in effect.",
    "converter": "What chooses a generator class for a class of the task.",
    "meta ratio": "Gradient of the validation loss over that of the feature gap, at the converter, before they are balanced.",
    "latents": "Random inputs of the generator, after the mapper; their bound is two standard deviations of what it knows.",
}


def uses_generator(config: dict[str, Any]) -> bool:
    """Return :attr:`mpssl_fed.config.Config.draws` of a config as a run directory holds it."""
    return draws_from_generator(config["method"]["source"], config["federation"]["anchor"]["weight"], config["warm_start"]["part"])


def setting_terms(configs: Iterable[dict[str, Any]]) -> Terms:
    """Return the terms of what these resolved configs set: methods, augmentation, split, what else takes part."""
    found: dict[str, str] = {}
    for config in configs:
        method, split = config["method"], config["data"]["partition"]["name"]
        for table, name in ((METHODS, method["name"]), (AUGMENTATIONS, method["augment"]), (SPLITS, split)):
            if name in table:
                found[name] = table[name]
        uses = {
            "local step": True,
            "generator": uses_generator(config),
            "warm start": config["warm_start"]["part"] != "none",
            "anchor": config["federation"]["anchor"]["weight"] > 0,
            "validation": config["data"].get("held_out") == "validation",
        }
        found |= {name: SETTINGS[name] for name, used in uses.items() if used}
        if config["privacy"]["scope"] != "off":
            found |= PRIVACY
    return list(found.items())


def run_terms(config: dict[str, Any], diagnosed: bool, chosen: bool = False, measured: bool = False) -> Terms:
    """Return the terms of one run's page; ``chosen``: it tells how synthetic images were chosen; ``measured``: the metrics."""
    found = LEARNING | (METRICS if measured else {}) | dict(setting_terms([config])) | RUN
    return list((found | (LATENTS if chosen else {}) | (DIAGNOSIS if diagnosed else {})).items())
