"""Makes the logs beside this file with the packages themselves, each in an environment of its own.

    python make_logs.py lm_eval|lighteval|inspect MODEL

``questions.jsonl`` is the task and ``answers.json`` what a model writes: three completions of each
question, right ones and wrong ones, one that was cut off and an empty one. No model runs.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
HERE = Path(__file__).resolve().parent
QUESTIONS = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
TASK = """
task: jars
dataset_path: json
dataset_kwargs:
  data_files: {{test: {questions}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{problem}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
repeats: 3
num_fewshot: 0
generation_kwargs: {{do_sample: true, temperature: 1.0, max_gen_toks: 64, until: ["Question:"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: "boxed\\\\{{([^}}]*)\\\\}}"}}
      - {{function: take_first}}
  - name: last-number
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[0-9]+)"}}
      - {{function: take_first}}
metadata: {{version: 1.0}}
"""


class Scripted:
    """Gives the completions of a question one after the other."""

    def __init__(self, model: str) -> None:
        self.texts = json.loads((HERE / "answers.json").read_text())[model]
        self.asked: Counter[int] = Counter()

    def __call__(self, prompt: str) -> str:
        place = next(i for i, row in enumerate(QUESTIONS) if row["problem"] in prompt)
        self.asked[place] += 1
        return self.texts[place][self.asked[place] - 1]


def lm_eval(model: str) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Model(LM):
        def generate_until(self, requests, disable_tqdm=False):
            script = Scripted(model)
            return [script(request.arguments[0]) for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    with tempfile.TemporaryDirectory() as folder:
        text = TASK.format(questions="questions.jsonl")
        (Path(folder) / "jars.yaml").write_text(text)
        tracker = EvaluationTracker(output_path=str(HERE / "lm_eval"))
        tracker.general_config_tracker.log_experiment_args(
            model_source="scripted",
            model_args=f"pretrained=org/{model}",
            system_instruction="",
            chat_template="",
            fewshot_as_multiturn=False,
        )
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(
            model=Model(), tasks=["jars"], task_manager=manager, log_samples=True
        )
        samples = found.pop("samples")
        found["pretty_env_info"] = ""  # of the machine, as the next
        del found["configs"]["jars"]["metadata"]["config_source"]
        tracker.save_results_aggregated(found, samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task, rows)


def inspect(model: str) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match, math
    from inspect_ai.solver import generate, prompt_template

    script = Scripted(model)

    def write(messages, tools, tool_choice, config):
        text = script(messages[-1].text)
        cut = text.endswith("the area is")
        stop = "max_tokens" if cut else "stop"
        output = ModelOutput.from_content(f"mockllm/{model}", text, stop_reason=stop)
        words = len(text.split())
        output.usage = ModelUsage(input_tokens=20, output_tokens=words, total_tokens=20 + words)
        return output

    dataset = [
        Sample(id=row["id"], input=row["problem"], target=str(int(row["answer"])))
        for row in QUESTIONS
    ]
    task = Task(
        dataset=dataset,
        solver=[prompt_template("Solve the problem.\n\n{prompt}"), generate()],
        scorer=[match(numeric=True), math()],
        epochs=3,
        name="jars",
    )
    for kind in ("eval", "json") if model == "small" else ("eval",):
        script.asked.clear()
        eval(
            task,
            model=get_model(f"mockllm/{model}", custom_outputs=write, memoize=False),
            log_dir=str(HERE / "inspect"),
            log_format=kind,
            max_samples=1,
            limit=1 if kind == "json" else None,
            display="none",
        )


def lighteval(model: str) -> None:
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.abstract_model import LightevalModel, ModelConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
    from lighteval.tasks.registry import Registry

    for others in ("_load_from_files", "_load_from_subdirs"):  # some ask the network
        setattr(Registry, others, staticmethod(lambda *_: {}))

    class Model(LightevalModel):
        def __init__(self, config):
            self.config, self._cache = config, SimpleNamespace(_init_registry=lambda registry: None)

        @property
        def tokenizer(self):
            return None

        @property
        def add_special_tokens(self):
            return False

        @property
        def max_length(self):
            return 64

        def greedy_until(self, docs):
            script = Scripted(model)
            found = []
            for doc in docs:
                texts = [script(doc.query) for _ in range(doc.num_samples)]
                tokens = [list(range(len(text.split()))) for text in texts]
                found.append(ModelResponse(input=doc.query, text=texts, output_tokens=tokens))
            return found

        def loglikelihood(self, docs):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    config = ModelConfig(model_name=f"org/{model}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "jars"
        data.mkdir()
        (data / "test.jsonl").write_text((HERE / "questions.jsonl").read_text())
        task = Path(folder) / "jars_task.py"
        task.write_text(LIGHTEVAL_TASK.format(data=str(data)))
        pipeline = Pipeline(
            tasks="jars|0",
            pipeline_parameters=PipelineParameters(
                launcher_type=ParallelismManager.NONE, custom_tasks_directory=str(task)
            ),
            evaluation_tracker=EvaluationTracker(
                output_dir=str(HERE / "lighteval"), save_details=True
            ),
            model=Model(config),
        )
        pipeline.evaluate()
        pipeline.save_and_push_results()
        for results in (HERE / "lighteval" / "results").rglob("*.json"):
            results.write_text(results.read_text().replace(folder, "data"))


LIGHTEVAL_TASK = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


def asked(row, task_name=None):
    return Doc(
        task_name=task_name,
        query="Solve the problem. Put the answer in a box.\\n\\n" + row["problem"],
        choices=[str(int(row["answer"]))],
        gold_index=0,
    )


TASKS_TABLE = [
    LightevalTaskConfig(
        name="jars",
        prompt_function=asked,
        hf_repo="{data}",
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        generation_size=64,
        metrics=[Metrics.avg_at_n_math(sample_params={{"n": 3}})],
        stop_sequence=[],
        version=1,
    )
]
"""

if __name__ == "__main__":
    os.chdir(HERE)
    {"lm_eval": lm_eval, "lighteval": lighteval, "inspect": inspect}[sys.argv[1]](sys.argv[2])
