"""How long until something happens? From the start of Python to the import, to the first story from
a saved model and to the first training step. Run: python tests/benchmarks/startup.py"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile

from common import ROOT, in_turns, machine, table

# Every program is what a user would write; the folder that it works in is its argument.
IMPORTS = {
    "slm, with what training needs": "import slm; slm.train",
    "torch": "import torch",
    "transformers, with LlamaForCausalLM": "from transformers import LlamaForCausalLM",
}
FIRST_STORY = {
    "slm.generate": """
import sys
import slm
model, tokenizer = slm.load_model(sys.argv[1] + "/model")
slm.generate(model, tokenizer, "Once upon a time", max_new_tokens=50, temperature=0)
""",
    "transformers, generate": """
import sys
from transformers import AutoTokenizer, LlamaForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1] + "/model")
model = LlamaForCausalLM.from_pretrained(sys.argv[1] + "/model")
inputs = tokenizer("<|endoftext|>Once upon a time", return_tensors="pt")
inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
ids = model.generate(**inputs, max_new_tokens=50, do_sample=False)
tokenizer.decode(ids[0], skip_special_tokens=True)
""",
    "transformers, pipeline": """
import sys
from transformers import pipeline
write = pipeline("text-generation", sys.argv[1] + "/model")
write("Once upon a time", max_new_tokens=50, do_sample=False)
""",
}
FIRST_STEP = {
    "slm": """
import json, sys
import slm
from slm.batches import Batches, pack
from slm.training.optimizer import make_optimizers
from slm.training.step import make_scaler, train_step
with open(sys.argv[1] + "/stories.json", encoding="utf-8") as file:
    stories = json.load(file)
tokenizer, config = slm.load_tokenizer(sys.argv[1] + "/model"), slm.TrainConfig(steps=1)
batches = Batches(pack(stories, tokenizer), batch_size=12, context_length=256)
model = slm.Transformer(slm.ModelConfig())
scaler = make_scaler(config, "cpu")
train_step(model, batches, make_optimizers(model, config), config, 0.01, scaler)
""",
    "transformers": """
import json, sys
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
with open(sys.argv[1] + "/stories.json", encoding="utf-8") as file:
    stories = json.load(file)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1] + "/model")
ids = tokenizer(stories, add_special_tokens=False, return_attention_mask=False)["input_ids"]
ids = [id for story in ids for id in [tokenizer.eos_token_id, *story]]
rows = torch.tensor(ids[: len(ids) // 256 * 256]).view(-1, 256)
x = rows[torch.randperm(len(rows))[:12]]
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=4096, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
    num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
)).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bfloat16"):
    loss = model(input_ids=x, labels=x).loss
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
""",
}
GROUPS = {"import": IMPORTS, "first story": FIRST_STORY, "first step": FIRST_STEP}


def seconds(program: str, folder: str, precision: str) -> float:
    """From the start of a fresh Python to the program's last line, without what ends a process."""
    command = [sys.executable, "-c", f'{program}\nprint("done", flush=True)', folder, precision]
    with TemporaryDirectory() as cache:  # a new one each time, so that nothing is packed already
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths, "SLM_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        with TemporaryFile("w+", encoding="utf-8") as errors:
            start = time.perf_counter()
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
            ) as process:
                done = any(line.strip() == "done" for line in process.stdout)
                elapsed = time.perf_counter() - start
            if not done:
                errors.seek(0)
                raise RuntimeError(f"A program failed:\n{program}\n{errors.read()}")
    return elapsed


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes each (default: 5)")
    options = parser.parse_args()

    import slm
    from slm.hardware.precision import pick_precision
    from slm.stories.practice import practice_stories

    rows = []
    with TemporaryDirectory() as folder:
        slm.save_model(f"{folder}/model", slm.Transformer(slm.ModelConfig()), slm.load_tokenizer())
        stories = json.dumps(practice_stories(1000))
        Path(folder, "stories.json").write_text(stories, encoding="utf-8")
        precision = str(pick_precision("auto", "cpu")).removeprefix("torch.")
        for group, programs in GROUPS.items():
            runs = {}
            for name, program in programs.items():
                runs[name] = partial(seconds, program, folder, precision)
            results = in_turns(runs, options.rounds)
            medians = {name: median(times) for name, times in results.items()}
            ours = next(iter(medians.values()))  # the first of each group
            for name, time_taken in medians.items():
                rows.append((f"{group}: {name}", f"{time_taken:.2f}", f"{time_taken / ours:.2f}"))
    print(machine("transformers", "tokenizers"))
    print(
        "Seconds from the start of Python; the story is of 50 tokens, the step follows the "
        f"tokenising\nof 1,000 stories; median of {options.rounds} fresh processes.\n"
    )
    print(table(("until the", "seconds", "slm is x"), rows))


if __name__ == "__main__":
    main()
