# The only list of experiments: notebook (found by tag and topic), figures, threads, and what an experiment needs.
# Above the first rule this is plain Python, which `cxr status` reads too. Parameters of the presets stand in papers/<tag>.yaml.
from cxr_companion.core.processes import usable_cores
from cxr_companion.report.pipeline import Request

request = Request.read(config)

NO_FILMS = ["phantom"]  # a run on numbers alone: once is enough
REGIONS = ["phantom", "cxr8"]  # simulated dust workers, or NIH's boxed findings as a substitute

TRUTH = ["phantom"]  # asks what only the simulator knows
DOMAINS = ["phantom", "cxr8"]  # sets with films of several domains, here: enough of each

HALF = max(1, usable_cores() // 2)  # threads: two trainings side by side do more than one after the other
WAITED = max(2, HALF)  # threads of a long training that most others wait for: it is alone then
GPU = 0 if request.preset in ("smoke", "demo", "evening") else 1  # accelerators that a training asks a cluster for

regions = request.experiment(
    "dong2022",
    "regions",
    figures=["regions_counts", "regions_sheet", "regions_places"],
    threads=2,
    data=REGIONS,
)
networks = request.experiment(
    "dong2022",
    "compare_networks",
    gpus=GPU,
    figures=["networks_auroc", "networks_curves", "networks_roc", "networks_cost", "networks_cases"],
    threads=2,
    data=REGIONS,
)
leakage = request.experiment(
    "dong2022",
    "leakage",
    gpus=GPU,
    figures=["leakage_auroc", "leakage_accuracy"],
    threads=2,
    data=REGIONS,
)
stargan = request.experiment(
    "myong2023",
    "train_stargan",
    gpus=GPU,
    figures=["stargan_losses", "stargan_progress"],
    files=["stargan/generator.safetensors"],
    threads=WAITED,
    data=DOMAINS,
)
quality = request.experiment(
    "myong2023",
    "image_quality",
    gpus=GPU,
    figures=[
        *("quality_distance", "quality_arrival", "quality_choices", "quality_nearest"),
        *(["quality_truth"] if request.simulated else []),
    ],
    threads=HALF,
    needs=[stargan],
    data=DOMAINS,
)
augmentation = request.experiment(
    "myong2023",
    "augmentation",
    gpus=GPU,
    figures=["augmentation_arms", "augmentation_selection", "augmentation_films"],
    threads=2,
    needs=[stargan],
    data=DOMAINS,
)
cohort = request.experiment(
    "myong2023",
    "cohort",
    figures=[
        *("cohort_counts", "cohort_annotated", "cohort_people", "cohort_greys", "cohort_films"),
        *(["cohort_counterfactuals"] if request.simulated else []),
    ],
    threads=HALF,
)
markers = request.experiment(
    "kim2022",
    "markers",
    figures=["markers_films", *(["markers_protocol", "markers_places", "markers_truth"] if request.simulated else [])],
    data=DOMAINS,
)
detector = request.experiment(
    "kim2022",
    "train_detector",
    gpus=GPU,
    figures=["detector_losses", "detector_froc", "detector_films"],
    files=["detector/detector.safetensors", "detector/threshold.json"],
    threads=HALF,
    data=TRUTH,
)
inpainter = request.experiment(
    "kim2022",
    "train_inpainter",
    gpus=GPU,
    figures=["inpainter_losses", "inpainter_errors", "inpainter_films"],
    files=["inpainter/inpainter.safetensors"],
    threads=HALF,
    data=TRUTH,
)
binary = request.experiment(
    "kim2022",
    "binary",
    gpus=GPU,
    figures=["binary_arms", "binary_sweep", "binary_films"],
    files=["arms/external-0.5.npz"],
    threads=2,
    needs=[inpainter],
    data=TRUTH,
)
turing = request.experiment(
    "myong2023",
    "turing_test",
    figures=["turing_published", "turing_power", "turing_films", "turing_readers", "turing_analyses"],
    threads=1,
)
pggan = request.experiment(
    "segal2021",
    "train_pggan",
    gpus=GPU,
    figures=["pggan_losses", "pggan_growth"],
    files=["pggan/generator.safetensors"],
    threads=HALF,
    data=DOMAINS,
)
classifiers = request.experiment(
    "segal2021",
    "classifiers",
    gpus=GPU,
    figures=["classifiers_auroc"],
    files=["classifiers/steering.safetensors", "classifiers/judge.safetensors"],
    threads=HALF,
    data=DOMAINS,
)
labels = request.experiment(
    "segal2021",
    "label_distribution",
    gpus=GPU,
    figures=["labels_shares", "labels_together"],
    threads=HALF,
    needs=[pggan, classifiers],
    data=DOMAINS,
)
optimisation = request.experiment(
    "segal2021",
    "latent_class_optimisation",
    gpus=GPU,
    figures=["lco_agreement", "lco_cost", "lco_within", "lco_films"],
    files=["archive/GENERATED.json"],
    threads=HALF,
    needs=[pggan, classifiers],
    data=DOMAINS,
)
synthetic = request.experiment(
    "segal2021",
    "synthetic_classifier",
    gpus=GPU,
    figures=["synthetic_auroc"],
    threads=HALF,
    needs=[pggan, classifiers, optimisation],
    data=DOMAINS,
)
unseen = request.experiment(
    "segal2021",
    "unseen_combination",
    gpus=GPU,
    figures=["unseen_agreement", "unseen_films"],
    threads=HALF,
    needs=[classifiers],
    data=DOMAINS,
)
twice = request.preset != "demo" or unseen.topic in request.topics  # two generators of its own: not in a quick look
experiments = [  # of two that could start the earlier one does: those that others wait for come first
    stargan,
    cohort,
    request.experiment(
        "myong2023",
        "classifier_baseline",
        gpus=GPU,
        figures=["classifier_roc", "classifier_errors", "classifier_gradcam"],
        threads=HALF,
    ),
    request.experiment(
        "myong2023",
        "translate",
        gpus=GPU,
        figures=[
            *("translate_latent", "translate_reference", "translate_styles", "translate_diversity"),
            *(["translate_truth"] if request.simulated else []),
        ],
        threads=HALF,
        needs=[stargan],
        data=DOMAINS,
    ),
    quality,
    augmentation,
    turing,
    request.experiment("myong2023", "type_one_error", figures=["errors_readers", "errors_tests"], data=NO_FILMS),
    request.experiment(
        "myong2023",
        "summary",
        figures=["summary_generator"],
        needs=[cohort, stargan, quality, augmentation, turing],  # all that its claims are answered by
        data=DOMAINS,
    ),
    pggan,
    classifiers,
    optimisation,
    synthetic,
    *([unseen] if twice else []),
    request.experiment(
        "segal2021",
        "generates",
        gpus=GPU,
        figures=["generates_sheet", "generates_truncation", "generates_variety", "generates_nearest"],
        threads=HALF,
        needs=[pggan],
        data=DOMAINS,
    ),
    request.experiment(
        "segal2021",
        "pathology_review",
        gpus=GPU,
        figures=["review_findings", "review_spectrum", "review_films"],
        threads=HALF,
        needs=[pggan, classifiers],
        data=DOMAINS,
    ),
    labels,
    request.experiment(
        "segal2021",
        "frechet_and_n",
        gpus=GPU,
        figures=["frechet_n", "frechet_features", "frechet_grades", "frechet_films"],
        threads=HALF,
        needs=[pggan, classifiers],
        data=DOMAINS,
    ),
    request.experiment(
        "segal2021",
        "realism",
        gpus=GPU,
        figures=["realism_films", "realism_readers", "realism_power"],
        needs=[pggan],
        data=DOMAINS,
    ),
    request.experiment(
        "segal2021",
        "summary",
        figures=["summary_generator"],
        needs=[pggan, labels, optimisation, synthetic],
        data=DOMAINS,
    ),
    request.experiment("kim2022", "statistics_worked", figures=["statistics_ten", "statistics_cases"], data=NO_FILMS),
    inpainter,
    detector,
    markers,
    binary,
    request.experiment(
        "kim2022", "multiclass", gpus=GPU, figures=["multiclass_arms"], threads=HALF, needs=[binary], data=TRUTH
    ),
    request.experiment(
        "kim2022", "multitask", gpus=GPU, figures=["multitask_arms"], threads=HALF, needs=[binary], data=TRUTH
    ),
    request.experiment("kim2022", "folds", gpus=GPU, figures=["folds_auroc"], threads=HALF, needs=[binary], data=TRUTH),
    request.experiment(
        "kim2022",
        "gradcam",
        gpus=GPU,
        figures=["gradcam_mass", "gradcam_films"],
        threads=HALF,
        needs=[binary],
        data=TRUTH,
    ),
    request.experiment(
        "kim2022", "summary", figures=["summary_chain"], needs=[detector, inpainter, binary], data=TRUTH
    ),
    regions,
    request.experiment("dong2022", "augmentation", figures=["augmentation_panel"], data=REGIONS),
    networks,
    leakage,
    request.experiment(
        "dong2022", "summary", figures=["summary_printed"], needs=[regions, networks, leakage], data=REGIONS
    ),
]
chosen = request.chosen(experiments)


rule all:
    input:
        [file for experiment in chosen for file in experiment.outputs],


for place, experiment in enumerate(chosen):

    rule:
        name:
            experiment.name
        input:
            [ancient(file) for file in experiment.inputs],  # what must run again is decided by content, not by time
        output:
            experiment.outputs,
        params:
            command=experiment.command,
        threads: experiment.threads
        resources:
            mem_mb=experiment.memory_mb,
            runtime=experiment.minutes,
            gpu=experiment.accelerators,
            box=min(1, experiment.gpus),  # on one machine only one job at a time has the GPUs
        priority: 2 ** (len(chosen) - place)  # the list is the order, also where one job takes the cores of two
        shell:
            "{params.command} --threads {threads}"
