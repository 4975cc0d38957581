"""Collecting the residual streams of words, beside a plain forward on the same rows.

The peer is Hugging Face's forward with the language-model head, no cache and no hidden states, in
the two ways that are usual: rows of equal length together, and rows sorted by length and padded
with a mask. The ratio is against the faster. Memory is the resident set of a process of its own
that streams to a folder, above what it held when the model had run once.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.datasets.named.registry import corpus as find
from interp.datasets.words.alignment import align
from interp.models.finding import shipped
from interp.probing.read.collect import collect

TOKENS = 1024
"""In a forward of the peer."""
FEW, MANY = 2_000, 20_000
"""Words whose memory is compared."""


def measure(model_name: str, *, words: int, repeats: int, threads: int) -> dict[str, Any]:
    """Tokens per second at `words` words of UD EWT, and peak memory at `FEW` and `MANY`."""
    torch.set_num_threads(threads)
    model = interp.load(model_name, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(shipped.folder(model_name)).eval()
    corpus = find("ud-ewt", split="train").head(words)
    aligned = align(model, corpus)
    rows = sorted((list(row) for row in aligned.rows), key=len)

    def forward(batches: Callable[[list[list[int]]], Iterator[list[list[int]]]]) -> None:
        for batch in batches(rows):
            longest = len(batch[-1])
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
            lengths = torch.tensor([[len(row)] for row in batch])
            mask = torch.arange(longest) < lengths
            padded = {} if bool(mask.all()) else {"attention_mask": mask.long()}
            plain(ids, use_cache=False, **padded)

    def to_folder() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect(model, corpus, folder=Path(folder) / "x")

    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: collect(model, corpus),
        "folder": to_folder,
        "equal": lambda: forward(of_equal_length),
        "padded": lambda: forward(of_any_length),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for repeat in range(repeats + 1):  # in turns, so that all meet the same machine
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if repeat:  # the first is warm-up
                    times[name].append(time.perf_counter() - start)
    took = {name: statistics.median(found) for name, found in times.items()}
    peer = min(took["equal"], took["padded"])
    few, many = (peak_mb(model_name, count, threads) for count in (FEW, MANY))
    return {
        "case": "collect",
        "ours_s": took["ours"],
        "peer_s": peer,
        "ratio": peer / took["ours"],
        "folder_s": took["folder"],
        "ratio_to_folder": peer / took["folder"],
        "peer_equal_length_s": took["equal"],
        "peer_padded_s": took["padded"],
        "words": len(aligned),
        "tokens": aligned.n_tokens,
        "ours_tokens_per_s": aligned.n_tokens / took["ours"],
        "peer_tokens_per_s": aligned.n_tokens / peer,
        f"peak_mb_{FEW}_words": few,
        f"peak_mb_{MANY}_words": many,
        "memory_growth": many / few,
    }


def of_equal_length(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for row in rows:
        if batch and (len(row) != len(batch[0]) or (len(batch) + 1) * len(row) > TOKENS):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def of_any_length(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > TOKENS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def peak_mb(model_name: str, words: int, threads: int) -> float:
    """Of a fresh process that streams to a folder, above what it held before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grown, model_name, words, threads).result()


def _grown(model_name: str, words: int, threads: int) -> float:
    torch.set_num_threads(threads)
    model = interp.load(model_name, device="cpu")
    corpus = find("ud-ewt", split="train")
    collect(model, corpus.head(20))
    held = psutil.Process().memory_info
    before, peak, done = held().rss, 0, Event()

    def watch() -> None:  # the system's own peak would be that of loading
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, held().rss)

    watcher = Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        collect(model, corpus.head(words), folder=Path(folder) / "x")
    done.set()
    watcher.join()
    return (peak - before) / 2**20
