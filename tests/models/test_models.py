"""The networks: published parameter counts, shapes, dtypes, statistics, errors."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from networks import flat, normal, predict, shapes_of, train_forward

from hyperdyn_jax import models
from hyperdyn_jax.models import CifarResNet, ResNet
from hyperdyn_jax.system import compiler


def logits_shape(model, variables, shape, dtype=jnp.float32):
    images = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(partial(model.apply, train=False), variables, images)


# Compiled for the least time to the result.
@jax.jit(static_argnums=0, compiler_options=compiler.RUNS_ONCE)
def init(model, key):
    return model.init(key, jnp.zeros((1, 8, 8, 3)), train=False)


def drawn(model, seed):
    """Variables of an initial kind without the wait for a compiled `init`."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            stddev = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return jnp.float32(generator.normal(scale=stddev, size=leaf.shape))
        return jnp.full(leaf.shape, float(path[-1].key in ("scale", "var")))

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


# Parameter counts. CIFAR: summed by hand from the paper's table for depth 20, and the
# 0.27, 0.46, 0.66, 0.85 and 1.7 M of its table 6. ImageNet: as torchvision publishes.


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (CifarResNet(10), 269_722),
        (CifarResNet(10, shortcut="B"), 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        (CifarResNet(10, depth=32), 464_154),
        (CifarResNet(10, depth=44), 658_586),
        (CifarResNet(10, depth=56), 853_018),
        (CifarResNet(10, depth=110), 1_727_962),
        (ResNet(1000, depth=18), 11_689_512),
        (ResNet(1000, depth=34), 21_797_672),
        (ResNet(1000, depth=50), 25_557_032),
        (ResNet(1000, depth=101), 44_549_160),
        (ResNet(1000, depth=152), 60_192_808),
    ],
)
def test_parameter_count(model, count):
    leaves = jax.tree.leaves(shapes_of(model)["params"])
    assert sum(leaf.size for leaf in leaves) == count


@pytest.mark.parametrize("depth", [8, 20])
@pytest.mark.parametrize("width", [3, 8, 16])
def test_parameter_count_by_the_formula(depth, width):
    def conv_norm(size, channels, filters):
        return size * size * channels * filters + 2 * filters

    expected, channels = conv_norm(3, 3, width), width
    for stage in range(3):
        filters = width * 2**stage
        for _ in range((depth - 2) // 6):
            expected += conv_norm(3, channels, filters) + conv_norm(3, filters, filters)
            channels = filters
    expected += channels * 7 + 7
    leaves = jax.tree.leaves(shapes_of(CifarResNet(7, depth, width))["params"])
    assert sum(leaf.size for leaf in leaves) == expected


def test_every_batch_norm_has_statistics_of_its_scale():
    for model in (CifarResNet(10), ResNet(10)):
        variables = shapes_of(model)
        params = traverse_util.flatten_dict(variables["params"], sep=".")
        stats = traverse_util.flatten_dict(variables["batch_stats"], sep=".")
        scales = {k: v.shape for k, v in params.items() if k.endswith(".scale")}
        for name in ("mean", "var"):
            assert scales == {
                k.removesuffix(name) + "scale": v.shape
                for k, v in stats.items()
                if k.endswith(f".{name}")
            }


def test_the_papers_networks_by_name():
    assert models.ResNet20(num_classes=10) == CifarResNet(10, depth=20, width=16)
    assert models.ResNet50(num_classes=1000) == ResNet(1000, depth=50, width=64)
    assert models.MODELS["cifar_resnet"] is CifarResNet
    assert models.MODELS["resnet"] is ResNet


# Shapes and dtypes.


@pytest.mark.parametrize("image", [(8, 8, 1), (16, 16, 3), (32, 32, 3), (7, 12, 3)])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_cifar_network_takes_any_image(image, shortcut):
    model = CifarResNet(num_classes=10, depth=8, width=8, shortcut=shortcut)
    variables = shapes_of(model, image)
    logits = logits_shape(model, variables, (5, *image))
    assert (logits.shape, logits.dtype) == ((5, 10), jnp.float32)
    # What the weights are does not hang on the size of the image.
    channels = image[-1]
    assert variables == shapes_of(model, (1, 1, channels))


@pytest.mark.parametrize(
    ("depth", "image"), [(18, (64, 48, 3)), (18, (33, 33, 1)), (50, (224, 224, 3))]
)
def test_imagenet_network_takes_any_image(depth, image):
    model = ResNet(num_classes=11, depth=depth, width=4)
    logits = logits_shape(model, shapes_of(model, image), (5, *image))
    assert (logits.shape, logits.dtype) == ((5, 11), jnp.float32)


@pytest.mark.parametrize(
    ("model", "image", "expected"),
    [
        (CifarResNet(10), (32, 32, 3), [(32, 16), (16, 32), (8, 64)]),
        (CifarResNet(10), (31, 31, 3), [(31, 16), (16, 32), (8, 64)]),
        (
            ResNet(10),
            (224, 224, 3),
            [(56, 256), (28, 512), (14, 1024), (7, 2048)],
        ),
    ],
)
def test_sizes_of_the_stages_are_the_papers(model, image, expected):
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    apply = partial(model.apply, train=False, capture_intermediates=True)
    _, captured = jax.eval_shape(apply, shapes_of(model, image), images)
    captured = captured["intermediates"]
    for stage, (size, channels) in enumerate(expected, start=1):
        last = [key for key in captured if key.startswith(f"stage{stage}_block")][-1]
        (output,) = captured[last]["__call__"]
        assert output.shape == (1, size, size, channels)


@pytest.mark.parametrize(
    ("dtype", "train"), [(jnp.bfloat16, False), ("bfloat16", True)]
)
def test_bfloat16_computes_between_float32_ends(dtype, train):
    for network in (
        CifarResNet(10, shortcut="B", dtype=dtype),
        ResNet(10, dtype=dtype),
    ):
        variables = shapes_of(network)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
            jnp.dtype(jnp.float32)
        }
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        apply = partial(
            network.apply,
            train=train,
            capture_intermediates=True,
            mutable=["batch_stats", "intermediates"],
        )
        logits, updates = jax.eval_shape(apply, variables, images)
        assert logits.dtype == jnp.float32
        assert updates["batch_stats"] == variables["batch_stats"]  # shapes and dtypes
        captured = traverse_util.flatten_dict(updates["intermediates"], sep=".")
        layers = {
            path: output.dtype
            for path, (output,) in captured.items()
            if ".norm." not in path and path not in ("__call__", "head.__call__")
        }
        assert len(layers) > 40
        assert set(layers.values()) == {jnp.dtype(jnp.bfloat16)}


def conv_norm_variables(kernel, var):
    """Of a ConvNorm with scale 1, bias 0 and running mean 0."""
    zeros, ones = jnp.zeros(kernel.shape[-1]), jnp.ones(kernel.shape[-1])
    return {
        "params": {
            "conv": {"kernel": jnp.asarray(kernel)},
            "norm": {"scale": ones, "bias": zeros},
        },
        "batch_stats": {"norm": {"mean": zeros, "var": var * ones}},
    }


def test_bfloat16_statistics_are_taken_in_float32():
    layer = models.ConvNorm(filters=8, size=3, train=True, dtype=jnp.bfloat16)
    # Not compiled: XLA may leave out the rounding of what it fuses with the mean.
    _, updates = layer.apply(
        conv_norm_variables(normal(0, 3, 3, 3, 8), var=1.0),
        jnp.asarray(normal(1, 16, 16, 16, 3) + 1),
        capture_intermediates=True,
        mutable=["batch_stats", "intermediates"],
    )
    (x,) = updates["intermediates"]["conv"]["__call__"]
    assert x.dtype == jnp.bfloat16
    x = np.asarray(x).astype(np.float64)
    stats = updates["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    var = 0.9 + 0.1 * x.var((0, 1, 2))
    np.testing.assert_allclose(stats["var"], var, rtol=1e-6)


def test_batch_norm_epsilon():
    layer = models.ConvNorm(filters=1, size=1)
    one = np.ones((1, 1, 1, 1), np.float32)
    output = layer.apply(conv_norm_variables(one, var=3e-5), jnp.asarray(one))
    assert output.item() == pytest.approx(1 / np.sqrt(3e-5 + 1e-5), rel=1e-5)


def test_bfloat16_stays_near_float32():
    images = jnp.asarray(normal(1, 8, 16, 16, 3))
    model = CifarResNet(num_classes=10, depth=14)
    variables = drawn(model, 1)
    exact, _ = train_forward(model, variables, images)
    rounded, _ = train_forward(model.clone(dtype="bfloat16"), variables, images)
    error = float(jnp.abs(exact - rounded).max() / jnp.std(exact))
    assert 1e-5 < error < 0.1  # bfloat16 has 8 bits: 0.4% a rounding; and it did round


# Initialisation.


@pytest.mark.parametrize(
    "model",
    [
        CifarResNet(num_classes=10, depth=14),
        CifarResNet(num_classes=10, depth=8, shortcut="B"),
        ResNet(num_classes=50, depth=18, width=16),
        pytest.param(ResNet(num_classes=50, depth=50, width=8), marks=pytest.mark.slow),
    ],
    ids=["cifar-A", "cifar-B", "resnet18", "resnet50"],
)
def test_initial_weights(model):
    variables = init(model, jax.random.key(2))
    standardized = []
    for path, value in flat(variables["params"]).items():
        if path.endswith("conv.kernel"):
            height, width, _, filters = value.shape
            stddev = np.sqrt(2 / (height * width * filters))
        elif path == "head.kernel" and isinstance(model, ResNet):
            stddev = 0.01
        elif path == "head.kernel":
            stddev = np.sqrt(2 / value.shape[0])
        elif path.endswith("norm.scale"):
            last = "conv3" if ".conv3." in path or model.depth >= 50 else "conv2"
            zero = isinstance(model, ResNet) and f".{last}." in path
            np.testing.assert_array_equal(value, 0.0 if zero else 1.0)
            continue
        else:
            assert path.endswith("bias"), path
            np.testing.assert_array_equal(value, 0.0)
            continue
        # Five standard errors of the mean and of the standard deviation.
        assert abs(value.mean()) < 5 * stddev / np.sqrt(value.size), path
        assert abs(value.std() / stddev - 1) < 5 / np.sqrt(2 * value.size), path
        standardized.append(value.ravel() / stddev)
    # Normal, and not a truncated normal: 4.55% lie outside two standard deviations.
    pooled = np.concatenate(standardized)
    share = np.mean(np.abs(pooled) > 2)
    error = np.sqrt(0.0455 * 0.9545 / pooled.size)
    assert abs(share - 0.0455) < 5 * error
    for path, value in flat(variables["batch_stats"]).items():
        np.testing.assert_array_equal(value, float(path.endswith("var")))


def test_initial_weights_follow_the_key():
    model = CifarResNet(num_classes=10, depth=8, width=8)
    first, again, other = (
        flat(init(model, jax.random.key(seed))["params"]) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[path], again[path]) for path in first)
    kernels = [path for path in first if path.endswith("kernel")]
    assert not any(np.array_equal(first[path], other[path]) for path in kernels)
    same_shape = [
        first[path] for path in kernels if path.startswith("stage1") and "conv" in path
    ]
    assert not any(np.array_equal(a, b) for a, b in pairwise(same_shape))


# The train argument.


def test_only_training_updates_the_statistics():
    model = CifarResNet(num_classes=10, depth=8, width=8)
    variables = drawn(model, 3)
    images = jnp.asarray(normal(3, 6, 8, 8, 3))
    before = flat(variables["batch_stats"])

    _, updates = model.apply(variables, images, train=False, mutable=["batch_stats"])
    after = flat(updates["batch_stats"])
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)

    _, stats = train_forward(model, variables, images)
    after = flat(stats)
    assert before.keys() == after.keys()
    assert not any(np.array_equal(before[path], after[path]) for path in before)


def test_an_evaluated_image_does_not_see_its_batch():
    model = CifarResNet(num_classes=10, depth=8, width=8)
    variables = drawn(model, 4)
    images = jnp.asarray(normal(4, 6, 8, 8, 3))
    alone, together = (predict(model, variables, x) for x in (images[:2], images))
    np.testing.assert_allclose(alone, together[:2], rtol=1e-5, atol=1e-5)
    alone, _ = train_forward(model, variables, images[:2])
    together, _ = train_forward(model, variables, images)
    assert np.abs(alone - together[:2]).max() > 0.1


def test_train_has_no_default():
    model = CifarResNet(num_classes=10, depth=8, width=8)
    with pytest.raises(TypeError, match="train"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


# Two devices with eight images each, of different mean and spread, against sixteen on
# one device.


@pytest.fixture
def halves():
    """-> a function of axis_name to the model, variables, images, labels."""
    settings = {"num_classes": 10, "depth": 8, "width": 8, "shortcut": "B"}
    model = partial(CifarResNet, **settings)
    images = normal(5, 16, 8, 8, 3)
    images[8:] = 3 * images[8:] + 2
    return model, drawn(model(), 5), jnp.asarray(images), jnp.arange(16) % 10


def on_two_devices(function, variables, *batch):
    batch = [leaf.reshape(2, 8, *leaf.shape[1:]) for leaf in batch]
    axes = (None, *[0 for _ in batch])
    mapped = jax.pmap(function, "batch", in_axes=axes, devices=jax.devices()[:2])
    return mapped(variables, *batch)


def test_batch_norm_averages_over_the_pmap_axis(halves):
    model, variables, images, _ = halves
    logits, stats = train_forward(model(), variables, images)
    stats = flat(stats)

    split = partial(train_forward, model(axis_name="batch"))
    split_logits, split_stats = on_two_devices(split, variables, images)
    split_logits, split_stats = split_logits.reshape(16, 10), flat(split_stats)
    np.testing.assert_allclose(split_logits, logits, rtol=1e-4, atol=1e-4)
    assert split_stats.keys() == stats.keys()
    for path, value in stats.items():
        for device in range(2):
            np.testing.assert_allclose(
                split_stats[path][device], value, rtol=1e-5, atol=1e-5, err_msg=path
            )


def test_batch_norm_without_an_axis_is_each_devices_own(halves):
    model, variables, images, _ = halves
    apart = partial(train_forward, model())
    apart_logits, apart_stats = on_two_devices(apart, variables, images)
    apart_stats = flat(apart_stats)
    for device, half in enumerate((images[:8], images[8:])):
        logits, stats = train_forward(model(), variables, half)
        np.testing.assert_allclose(apart_logits[device], logits, rtol=1e-4, atol=1e-4)
        for path, value in flat(stats).items():
            np.testing.assert_allclose(
                apart_stats[path][device], value, rtol=1e-5, atol=1e-5, err_msg=path
            )
    for path, value in apart_stats.items():
        assert not np.allclose(*value, rtol=1e-3, atol=1e-3), path


def test_gradient_through_the_pmap_axis(halves):
    model, variables, images, labels = halves

    def gradient(model, variables, images, labels):
        def loss(params):
            logits, _ = train_forward(model, {**variables, "params": params}, images)
            one_hot = jax.nn.one_hot(labels, 10)
            return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * one_hot, axis=-1))

        return jax.grad(loss)(variables["params"])

    def split_gradient(*arguments):
        return jax.lax.pmean(gradient(model(axis_name="batch"), *arguments), "batch")

    whole = flat(jax.jit(partial(gradient, model()))(variables, images, labels))
    split = flat(on_two_devices(split_gradient, variables, images, labels))
    assert split.keys() == whole.keys()
    for path, value in whole.items():
        assert np.abs(value).max() > 1e-3
        error = np.abs(split[path] - value).max()
        assert error < 1e-4 * np.abs(value).max(), path


def test_models_are_values():
    first, second = (CifarResNet(num_classes=10, dtype="bfloat16") for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != CifarResNet(num_classes=10)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (CifarResNet, {"depth": 21}, r"depth must be 6 n \+ 2 .*got 21"),
        (CifarResNet, {"depth": 2}, r"depth must be 6 n \+ 2 .*got 2$"),
        (CifarResNet, {"depth": -4}, r"depth must be 6 n \+ 2 .*got -4"),
        (CifarResNet, {"depth": 20.0}, r"depth must be 6 n \+ 2 .*got 20\.0"),
        (CifarResNet, {"shortcut": "C"}, r"shortcut must be 'A' or 'B', got 'C'"),
        (CifarResNet, {"shortcut": None}, r"shortcut must be 'A' or 'B', got None"),
        (ResNet, {"depth": 20}, r"depth must be one of 18, 34, 50, 101, 152, got 20"),
        (ResNet, {"depth": "50"}, r"depth must be one of .*got '50'"),
        (ResNet, {"depth": [50]}, r"depth must be one of .*got \[50\]"),
    ],
)
def test_bad_arguments_of_one_network(network, settings, message):
    with pytest.raises(ValueError, match=message):
        network(num_classes=10, **settings)


@pytest.mark.parametrize("network", [CifarResNet, ResNet])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, r"num_classes must be a whole number >= 1, got 0"),
        ({"num_classes": 10.0}, r"num_classes must be .*got 10\.0"),
        ({"width": 0}, r"width must be a whole number >= 1, got 0"),
        ({"width": -8}, r"width must be a whole number >= 1, got -8"),
        ({"width": True}, r"width must be a whole number >= 1, got True"),
        ({"width": None}, r"width must be a whole number >= 1, got None"),
        ({"dtype": jnp.int32}, r"dtype must be float32 or bfloat16, got .*int32"),
        ({"dtype": "float16"}, r"dtype must be float32 or bfloat16, got 'float16'"),
        ({"dtype": None}, r"dtype must be float32 or bfloat16, got None"),
        ({"axis_name": 0}, r"axis_name must be a name or None, got 0"),
        ({"axis_name": ""}, r"axis_name must be a name or None, got ''"),
    ],
)
def test_bad_arguments_of_every_network(network, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        network(**{"num_classes": 10, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", [CifarResNet, ResNet])
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((32, 32, 3), jnp.float32, r"images must be .*got float32\[32, 32, 3\]"),
        ((1, 1, 32, 32, 3), jnp.float32, r"images must be .*\[1, 1, 32, 32, 3\]"),
        ((1, 32, 32, 3), jnp.uint8, r"images must be .*got uint8\[1, 32, 32, 3\]"),
    ],
)
def test_bad_images(network, shape, dtype, message):
    model = network(num_classes=10)
    with pytest.raises(ValueError, match=message):
        logits_shape(model, shapes_of(model), shape, dtype)
