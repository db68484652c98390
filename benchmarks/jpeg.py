"""P9: JPEG files -> training crops of 224x224 pixels, on one core; waits for batches.

    pip install -e ".[bench]"
    python benchmarks/jpeg.py   # PYTHON_TF=... where another Python has tensorflow-cpu

ImageNet is not at hand: the images are parts of scikit-learn's two photographs, cut out
at random places and sizes, 500x375 pixels, quality 90. The same boxes and mirrors for
all, drawn as training draws them. In turn, each in a process of its own on one core:

    here          what a worker runs: Grain over `augment.crop`, in batches
    tf.data       decode_and_crop_jpeg, resize, mirror, in batches
    DataLoader    torch's, with the calls of Pillow that torchvision makes for its crops
    decode        Pillow's libjpeg-turbo decodes whole images, and nothing else: a limit

That crops equal those of tf.data (which interpolates as we do) is checked; Pillow
averages over more pixels when it shrinks. Then, with a worker a core, the share of time
in which a device would stand still that takes a tenth longer over a batch than all
workers need to make one: it works off what it was given, and the caller, as the loop
does, fetches batches until it is sixteen ahead. It is a clock and no accelerator, and
takes none of the cores' time.
"""

import argparse
import io
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HEIGHT, WIDTH, QUALITY, SIZE, BATCH = 375, 500, 90, 224, 64
SLOWER = 1.1  # a batch on the device, of what all workers need for one
AHEAD = 16  # batches that the loop hands out before it waits: `training.BLOCK`
Batches = Callable[[], Iterable[np.ndarray]]  # all of them, as often as it is called


def make_images(count: int) -> list[dict[str, Any]]:
    """JPEG files with a box and a mirror each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from hyperdyn_jax.data.augment import random_box

    rng, made = np.random.default_rng(0), []
    photographs = load_sample_images().images
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        # A part of the same shape and 60% to 100% of the side, enlarged to full size.
        height = int(rng.uniform(0.6, 1.0) * 427)
        width = min(height * WIDTH // HEIGHT, 640)
        top, left = rng.integers((428 - height, 641 - width))
        part = photograph[top : top + height, left : left + width]
        enlarged = Image.fromarray(part).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        with io.BytesIO() as file:
            enlarged.save(file, "JPEG", quality=QUALITY)
            image = file.getvalue()
        box = tuple(random_box(HEIGHT, WIDTH, rng))
        made.append({"image": image, "box": box, "mirror": bool(rng.random() < 0.5)})
    return made


def ours(images: list[dict[str, Any]]) -> Batches:
    import grain
    from absl import flags

    from hyperdyn_jax.data import augment, tfds_records

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def load(number: int) -> np.ndarray:
        example = tfds_records.Example(images[number]["image"], 0, "")
        tfds_records.image_size(example)  # which the box is drawn from
        box = augment.Box(*images[number]["box"])
        return augment.crop(example, box, SIZE, images[number]["mirror"])

    loaded = grain.MapDataset.range(len(images)).map(load).batch(BATCH)
    loaded = loaded.to_iter_dataset(grain.ReadOptions(0, 0))
    return lambda: iter(loaded)


def tf_data(images: list[dict[str, Any]]) -> Batches:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)

    def load(image: Any, box: Any, mirror: Any) -> Any:
        crop = tf.image.decode_and_crop_jpeg(image, box, channels=3)
        crop = tf.image.resize(crop, (SIZE, SIZE))
        return tf.cond(mirror, lambda: crop[:, ::-1], lambda: crop)

    columns = ([x[name] for x in images] for name in ("image", "box", "mirror"))
    loaded = tf.data.Dataset.from_tensor_slices(tuple(columns))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    loaded = loaded.map(load).batch(BATCH).prefetch(1).with_options(options)
    return loaded.as_numpy_iterator


def data_loader(images: list[dict[str, Any]]) -> Batches:
    import torch
    from PIL import Image

    class Crops(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, number: int) -> torch.Tensor:
            top, left, height, width = images[number]["box"]
            image = Image.open(io.BytesIO(images[number]["image"])).convert("RGB")
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            if images[number]["mirror"]:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image))

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Crops(), batch_size=BATCH)
    return lambda: iter(loader)


def decode(images: list[dict[str, Any]]) -> Batches:
    from hyperdyn_jax.data import tfds_records

    def batches() -> Iterable[np.ndarray]:
        for start in range(0, len(images), BATCH):
            for image in images[start : start + BATCH]:
                example = tfds_records.Example(image["image"], 0, "")
                decoded = tfds_records.decode(example)
            yield decoded

    return batches


WAYS = {"ours": ours, "tf.data": tf_data, "DataLoader": data_loader, "decode": decode}


def serve(way: str, folder: Path) -> None:
    """Goes through all images at each line read, and answers with the seconds."""
    images = pickle.loads((folder / "images").read_bytes())
    batches = WAYS[way](images)
    if way != "decode":
        crops = np.concatenate([np.asarray(batch) for batch in batches()])
        np.save(folder / f"{way}.npy", crops)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        count = sum(1 for _ in batches())
        seconds = time.perf_counter() - start
        if count != -(-len(images) // BATCH):
            raise AssertionError(f"{way} gave {count} batches")
        print(seconds, flush=True)


class Server:
    """A way in a process of its own, on one core."""

    def __init__(self, way: str, folder: Path, core: int):
        python = os.environ.get("PYTHON_TF", sys.executable)
        python = python if way == "tf.data" else sys.executable
        self._process = subprocess.Popen(
            [python, __file__, f"--serve={way}", f"--folder={folder}"],
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{way} does not work here")

    def seconds(self) -> float:
        print("go", file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def rates(images: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Images a second of every way, and ours against each, pair by pair."""
    import pairs

    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").write_bytes(pickle.dumps(images))
        servers = {way: Server(way, folder, core) for way in WAYS}
        crops = {way: np.load(folder / f"{way}.npy") for way in WAYS if way != "decode"}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for pair in range(count):
            for way in list(WAYS) if pair % 2 else reversed(WAYS):
                times[way].append(servers[way].seconds())
        for server in servers.values():
            server.close()
    rows = []
    for way in list(WAYS)[1:]:
        row = {"peer": way, "pairs": count, "images": len(images)}
        row["ours_images_per_second"] = pairs.per_second(len(images), times["ours"])
        row["peer_images_per_second"] = pairs.per_second(len(images), times[way])
        row |= pairs.compare(times["ours"], times[way])
        if way != "decode":
            gap = np.abs(crops["ours"].astype(np.float32) - crops[way])
            row["mean_difference"] = float(gap.mean())  # of 256 levels
            # Pillow's are smoother where it shrinks.
            if row["mean_difference"] > (2.0 if way == "tf.data" else 8.0):
                raise AssertionError(f"crops differ from those of {way}: {row}")
        rows.append(row | {"seconds": times[way], "ours_seconds": times["ours"]})
    return rows


class Memory:
    """Encoded images as TFDS serves them, again and again."""

    def __init__(self, images: list[dict[str, Any]]):
        self._images = [image["image"] for image in images]

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"image": self._images[number % len(self._images)], "label": 0}


def stall(images: list[dict[str, Any]], batches: int) -> dict[str, Any]:
    """The share of time in which a device has nothing to do for want of batches."""
    from hyperdyn_jax.data import imagenet, tfds_records

    length = BATCH * (2 * batches + 20)
    split = tfds_records.Records(Memory(images), "train", [("memory", length)], 1)
    workers = len(os.sched_getaffinity(0))
    dataset = imagenet.StreamedDataset(
        split,
        split,
        split,
        classes=1,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        devices=1,
        seed=0,
        workers=workers,
    )
    first = 10  # batches until all is under way
    for step in range(first):
        dataset.train_batch(step)
    start = time.perf_counter()
    for step in range(first, first + batches):
        dataset.train_batch(step)
    full = (time.perf_counter() - start) / batches
    time.sleep(2 * full)  # what is made ahead is there again
    idle, waits = 0.0, []
    free = start = time.perf_counter()  # when the device has done what it was given
    for step in range(first + batches, first + 2 * batches):
        began = time.perf_counter()
        dataset.train_batch(step)
        arrived = time.perf_counter()
        waits.append(arrived - began)
        idle += max(0.0, arrived - free)
        free = max(arrived, free) + SLOWER * full
        time.sleep(max(0.0, free - arrived - AHEAD * SLOWER * full))
    dataset.close()
    return {
        "workers": workers,
        "batch_size": BATCH,
        "batches": batches,
        "images_per_second": BATCH / full,
        "batch_ms": 1e3 * full,
        "device": f"{SLOWER:g} times as long a batch as all workers need",
        "ahead": AHEAD,
        "stall": idle / (free - start),
        "median_wait_ms": 1e3 * statistics.median(waits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batches", type=int, default=40, help="of the device")
    parser.add_argument("--output", type=Path, default=RESULTS / "jpeg.json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder)
        return
    import record

    images = make_images(arguments.images)
    rows = rates(images, arguments.pairs)
    for row in rows:
        print({k: x for k, x in row.items() if "seconds" not in k or "_per_" in k})
    waiting = stall(images, arguments.batches)
    print(waiting)
    made = {
        "from": "parts of scikit-learn's two sample photographs, enlarged",
        "pixels": [HEIGHT, WIDTH],
        "quality": QUALITY,
        "mean_bytes": statistics.mean(len(x["image"]) for x in images),
    }
    results = {"images": made, "rates": rows, "stall": waiting}
    versions = ("jax", "grain", "pillow", "torch")
    record.write(arguments.output, versions, results)


if __name__ == "__main__":
    main()
