"""Submissions as a class hands them in: right in odd ways, wrong, and dishonest, each with what it deserves.

A submission has the tasks that it names and no others, so that a hundred of them run in seconds. Answers that are not
given are the solution's. test_course_table.py runs them; those that are damaged on the way are in it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import nbformat
from nbformat import NotebookNode

FORWARD = """
def forward_process(z0, alpha_bar_t, noise):
    a = alpha_bar_t.view(-1, *[1] * (z0.ndim - 1))
    return a.sqrt() * z0 + (1 - a).sqrt() * noise
"""
ZEROS = """
def forward_process(z0, alpha_bar_t, noise):
    return 0 * z0
"""


@dataclass
class Submission:
    """One submission.

    Args:
        answers: by task, in place of the solution.
        before, beside, between, after: the student's own cells: at the start, behind the first answer, after the first
            task, and at the end.
        loses: the tasks, or single graded cells, that get nothing; all else gets all of its points.
        sandboxed: deserves this only where files are out of reach.
    """

    name: str
    answers: dict[str, str] = field(default_factory=dict)
    before: str = ""
    beside: str = ""
    between: str = ""
    after: str = ""
    loses: tuple[str, ...] = ()
    key: str = "a1"
    tasks: tuple[str, ...] = ("forward", "schedule")
    sandboxed: bool = False


def forward(name: str, source: str, **options) -> Submission:
    return Submission(name, {"forward": source}, **options)


RIGHT = [
    Submission("the solution"),
    forward("leftover dots after the answer", FORWARD + "    ...  # your code here\n"),
    forward("leftover dots before the answer", FORWARD.replace("    a =", "    ...  # your code here\n    a =")),
    Submission("another default dtype", before="torch.set_default_dtype(torch.float64)"),
    Submission("another default device", before="torch.set_default_device('meta')"),
    Submission("autograd off", before="torch.set_grad_enabled(False)", tasks=("loss", "schedule")),
    Submission("warnings are errors", before="import warnings; warnings.simplefilter('error')"),
    Submission("a variable called check", before="check = 3"),
    Submission("a function called check", between="def check(x):\n    return x"),
    Submission("names of the tests", before="_tested = Student = _g = _a = _right = None"),
    Submission("builtins hidden", before="sum = list = zip = print = range = 0"),
    Submission("another torch for a name", after="torch = None"),
    forward("a lambda", "forward_process = lambda z, a, e: (s := a.view(-1, *[1] * (z.ndim - 1))).sqrt() * z + (1 - s).sqrt() * e"),
    forward(
        "an object that can be called",
        "class Forward:\n    def __call__(self, z, a, e):\n        a = a.view(-1, *[1] * (z.ndim - 1))\n"
        "        return a.sqrt() * z + (1 - a).sqrt() * e\nforward_process = Forward()",
    ),
    forward("a partial", FORWARD.replace("(z0,", "_process(w, z0,") + "import functools\nforward_process = functools.partial(forward_process_process, 1)".replace("_process_process", "_process_process"), ),
    forward("a decorator", "import functools\n@functools.wraps(int)\n" + FORWARD.strip() + "\n"),
    forward("made by exec", f"exec({FORWARD!r})"),
    forward("numpy inside", "import numpy as np\ndef forward_process(z0, alpha_bar_t, noise):\n    a = alpha_bar_t.numpy().reshape(-1, *[1] * (z0.ndim - 1))\n    return torch.from_numpy(np.sqrt(a) * z0.numpy() + np.sqrt(1 - a) * noise.numpy())"),
    forward("one image at a time", "def forward_process(z0, alpha_bar_t, noise):\n    return torch.stack([a.sqrt() * z + (1 - a).sqrt() * e for z, a, e in zip(z0, alpha_bar_t, noise)])"),
    forward("a loud function", FORWARD.replace("    a =", "    import sys, warnings\n    warnings.warn('old')\n    print('x' * 5000)\n    print('y', file=sys.stderr)\n    a =")),
    forward("a helper in a new cell", "def forward_process(z0, a, noise):\n    return helper(a, z0).sqrt() * z0 + (1 - helper(a, z0)).sqrt() * noise", before="def helper(a, z):\n    return a.view(-1, *[1] * (z.ndim - 1))"),
    forward("annotations and defaults", FORWARD.replace("(z0, alpha_bar_t, noise)", "(z0: 'torch.Tensor', alpha_bar_t: torch.Tensor, noise=None, *rest, **more) -> torch.Tensor")),
    forward("a result that is not contiguous", FORWARD.replace("return a", "w = a").rstrip() + "\n    return w.movedim(0, -1).contiguous().movedim(-1, 0)\n"),
    forward("a parameter as a result", FORWARD.replace("return a.sqrt()", "return torch.nn.Parameter(a.sqrt()").rstrip() + ")\n"),
    forward("starts from torch's names", FORWARD.replace("a.sqrt()", "sqrt(a)"), before="from torch import *"),
    forward("seeds the chance", FORWARD.replace("    a =", "    torch.manual_seed(3)\n    a =")),
    Submission("both answers in one cell", {"forward": FORWARD + "\ndef linear_schedule(T, first, last):\n    return (1 - torch.linspace(first, last, T)).cumprod(0)", "schedule": "# above"}),
    Submission("a recursion", {"schedule": "def linear_schedule(T, first, last):\n    b = torch.linspace(first, last, T).tolist()\n    def to(k):\n        return [] if k == 0 else [*(r := to(k - 1)), (r[-1] if r else 1.0) * (1 - b[k - 1])]\n    import sys\n    sys.setrecursionlimit(5000)\n    return torch.tensor(to(T))"}),
    Submission("an endless loop under a bare except, in between", between="while True:\n    try:\n        import time; time.sleep(0.01)\n    except:\n        pass"),
    Submission("an endless loop after the function, in its cell", {"forward": FORWARD + "\nwhile True:\n    try:\n        torch.ones(3).sum()\n    except:\n        pass"}),
    Submission("an endless loop", between="while True:\n    pass"),
    Submission("150 processes", between="import os, time\nfor _ in range(150):\n    if not os.fork():\n        time.sleep(60)\ntime.sleep(60)"),
    Submission("an exit in between", between="import os\nos._exit(0)"),
    Submission("sys.exit", between="import sys\nsys.exit()"),
    Submission("exit()", between="exit()"),
    Submission("a crash", between="import ctypes\nctypes.string_at(0)"),
    Submission("an error", between="1 / 0"),
    Submission("a cell with a mistake in its grammar", between="def f(:"),
    Submission("waits for input", between="name = input('Your name? ')"),
    Submission("too much memory", between="x = bytearray(10**11)"),
    Submission("a flood of output", between="for _ in range(10**5):\n    print('x' * 100)"),
    Submission("installs and lists", between="!pip --version\n%time 1 + 1\n!ls"),
    Submission("a plot", between="%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"),
    Submission("await", between="import asyncio\nawait asyncio.sleep(0)"),
    Submission("another folder", between="import os\nos.chdir('/')"),
    Submission("a thread that goes on", before="import threading, time\nthreading.Thread(target=time.sleep, args=(30,), daemon=True).start()"),
    Submission("forgets its functions at the end", after="del forward_process, linear_schedule\n%reset -f"),
    Submission("half an emoji printed", between="print('\\ud83d')"),
    Submission("calls the checks again", between="check.forward_process(forward_process)\nassert check.Student(forward_process)"),
    Submission("restarts its name later", after="def forward_process(*a):\n    return None"),
    Submission("step with eval()", {"step": "def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):\n    network.eval()\n    B = len(t)\n    c = (network(x).softmax(1) @ embeddings).expand(B, -1)\n    value = loss(z0.repeat(B, 1, 1, 1), t, noise, c).mean()\n    optimizer.zero_grad(set_to_none=False)\n    value.backward()\n    optimizer.step()\n    return value.detach().clone()"}, key="a3", tasks=("step", "entropy")),
    Submission("restore by state_dict", {"restore": "import copy\ndef adapt_and_restore(network, step, steps, x):\n    kept = copy.deepcopy(network.state_dict())\n    try:\n        for _ in range(steps):\n            step()\n        with torch.inference_mode():\n            return network(x).clone()\n    finally:\n        network.load_state_dict(kept)"}, key="a3", tasks=("restore",)),
    Submission("train() and back", {"tent": "def tent_step(network, x, lr):\n    was = [m.training for m in network.modules()]\n    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm1d)\n    w = [p for m in network.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)]\n    H = torch.distributions.Categorical(logits=network(x)).entropy().mean()\n    for p, g in zip(w, torch.autograd.grad(H, w)):\n        p.data.sub_(lr * g)\n    network.train()\n    for m, mode in zip(network.modules(), was):\n        m.training = mode\n    return H.detach()"}, key="a3", tasks=("tent",)),
    Submission("whole parts first", {"stratified": "def stratified_times(u, T):\n    B = u.shape[1]\n    return torch.floor((torch.arange(B, dtype=torch.float64) + u.double()) * T / B).long().clamp(0, T - 1)"}, key="a7", tasks=("stratified",)),
    Submission("a part plus its lower end", {"stratified": "def stratified_times(u, T):\n    B = u.shape[1]\n    return (torch.arange(B) * T / B + u * (T / B)).floor().to(torch.int64).clamp(max=T - 1)"}, key="a7", tasks=("stratified",)),
    Submission("gradients to LoRA's parts", key="a6", tasks=("forward", "start", "merge", "tokens")),
    Submission("weights and episodes", key="a8", tasks=("select", "episode", "descend")),
    forward("a helper in the answer's cell, the function in the next", "def level(a, z):\n    return a.view(-1, *[1] * (z.ndim - 1))", beside="def forward_process(z0, alpha_bar_t, noise):\n    a = level(alpha_bar_t, z0)\n    return a.sqrt() * z0 + (1 - a).sqrt() * noise"),
    forward("annotations that nothing defines", "from __future__ import annotations\n" + FORWARD.replace("(z0, alpha_bar_t, noise)", '(z0: Float["n *rest"], alpha_bar_t: Float["n"], noise: Like[z0]) -> NoSuchThing')),
    forward("a scripted function", "from torch import Tensor\n@torch.jit.script\ndef forward_process(z0: Tensor, alpha_bar_t: Tensor, noise: Tensor):\n    a = alpha_bar_t.view([-1] + [1] * (z0.dim() - 1))\n    return a.sqrt() * z0 + (1 - a).sqrt() * noise"),
    forward("inference mode", "@torch.inference_mode()\n" + FORWARD.strip() + "\n"),
    forward("threads inside", "from concurrent.futures import ThreadPoolExecutor\ndef forward_process(z0, alpha_bar_t, noise):\n    with ThreadPoolExecutor(4) as pool:\n        rows = pool.map(lambda z, a, e: a.sqrt() * z + (1 - a).sqrt() * e, z0, alpha_bar_t, noise)\n        return torch.stack(list(rows))"),
    forward("processes inside", "import multiprocessing\ndef forward_process(z0, alpha_bar_t, noise):\n    with multiprocessing.get_context('fork').Pool(1) as pool:\n        (a,) = pool.map(list, [alpha_bar_t.tolist()])\n    a = torch.tensor(a, dtype=z0.dtype).view(-1, *[1] * (z0.ndim - 1))\n    return a.sqrt() * z0 + (1 - a).sqrt() * noise"),
    forward("timed", "%%time\n" + FORWARD.strip() + "\n"),
    forward("in the main module", "if __name__ == '__main__':\n" + FORWARD.replace("\n", "\n    ") + "\n"),
    forward("a static method", "class Process:\n    @staticmethod\n" + FORWARD.replace("forward_process", "run").replace("\n", "\n    ") + "\nforward_process = Process.run"),
    forward("notes in a file", FORWARD.replace("    a =", "    import tempfile\n    print(z0.shape, file=open('notes.txt', 'a'))\n    print(1, file=tempfile.TemporaryFile('w'))\n    a =")),
    forward("rows by vmap", "def forward_process(z0, alpha_bar_t, noise):\n    return torch.vmap(lambda z, a, e: a.sqrt() * z + (1 - a).sqrt() * e)(z0, alpha_bar_t, noise)"),
    Submission("modules read again", before="%load_ext autoreload\n%autoreload 2"),
    Submission("many threads", {"forward": FORWARD.replace("    a =", "    (torch.rand(3_000_000).exp() + 1).sum()\n    torch.rand(300, 300) @ torch.rand(300, 300)\n    a =")}, before="torch.set_num_threads(4)\n(torch.rand(3_000_000).exp() + 1).sum(), torch.rand(900, 900) @ torch.rand(900, 900)"),
    Submission("loads data in other processes", before="from torch.utils.data import DataLoader, TensorDataset\nfor (x,) in DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4, num_workers=2):\n    x.sum()\nloaded = True", answers={"forward": FORWARD.replace("    a =", "    assert loaded\n    a =")}),
    Submission("a cached schedule", {"schedule": "import functools\n@functools.lru_cache\ndef linear_schedule(T, first, last):\n    return (1 - torch.linspace(first, last, T)).cumprod(0)"}),
    Submission("a generator", {"schedule": "import itertools\ndef kept(T, first, last):\n    for b in torch.linspace(first, last, T).tolist():\n        yield 1 - b\ndef linear_schedule(T, first, last):\n    return torch.tensor(list(itertools.accumulate(kept(T, first, last), lambda a, b: a * b)))"}),
    Submission("numpy's schedule", {"schedule": "import numpy as np\ndef linear_schedule(T, first, last):\n    return torch.from_numpy(np.cumprod(1 - np.linspace(first, last, T))).float()"}),
    Submission("a schedule by logarithms", {"schedule": "def linear_schedule(T, first, last):\n    beta = torch.linspace(first, last, T, dtype=torch.float64)\n    return torch.log1p(-beta).cumsum(0).exp().float()"}),
    Submission("classes by vmap", {"rank": "def rank_classes(loss, z0, embeddings, t, noise):\n    B = len(t)\n    def mean(embedding):\n        return loss(z0.expand(B, -1, -1, -1), t, noise, embedding.expand(B, *embedding.shape)).mean()\n    return torch.vmap(mean)(embeddings).argsort()"}, tasks=("rank",)),
    Submission("a copy of the loss", {"rank": "import copy\ndef rank_classes(loss, z0, embeddings, t, noise):\n    loss, B = copy.deepcopy(loss), len(t)\n    z = torch.cat([z0] * B)\n    means = {k: loss(z, t, noise, torch.stack([e] * B)).mean().item() for k, e in enumerate(embeddings)}\n    return torch.tensor(sorted(means, key=means.get))"}, tasks=("rank",)),
    Submission("a bar of progress", {"timestep": "from tqdm.auto import tqdm\ndef loss_by_timestep(predict, z0, alpha_bar, timesteps, noise):\n    return torch.stack([(predict(alpha_bar[t].sqrt() * z0 + (1 - alpha_bar[t]).sqrt() * noise, torch.tensor([t] * len(noise))) - noise).pow(2).mean() for t in tqdm(timesteps)])"}, tasks=("timestep",)),
    Submission("parts by torch.func.grad", {"parts": "def gradient_in_parts(loss, c, t, noise, size):\n    def part(c, t_part, noise_part):\n        return loss(t_part, noise_part, c.expand(len(t_part), *c.shape[1:])).sum() / len(t)\n    grad = torch.func.grad(part)\n    return sum(grad(c.detach(), *each) for each in zip(t.split(size), noise.split(size)))"}, key="a2", tasks=("parts",)),
    Submission("steps by torch.func.grad", {"descend": "def descend_logits(loss, classes, steps, lr):\n    y = torch.zeros(1, classes)\n    for _ in range(steps):\n        y = y - lr * torch.func.grad(loss)(y)\n    return y"}, key="a8", tasks=("descend",)),
    Submission("steps by a mapped gradient", {"descend": "def descend_logits(loss, classes, steps, lr):\n    y = torch.zeros(1, 1, classes)\n    for _ in range(steps):\n        y = y - lr * torch.vmap(torch.func.grad(loss))(y)\n    return y[0]"}, key="a8", tasks=("descend",)),
    Submission("steps by a jacobian", {"descend": "def descend_logits(loss, classes, steps, lr):\n    y = torch.zeros(1, classes)\n    for _ in range(steps):\n        y -= lr * torch.autograd.functional.jacobian(loss, y)\n    return y"}, key="a8", tasks=("descend",)),
    Submission("steps by an optimizer", {"descend": "def descend_logits(loss, classes, steps, lr):\n    y = torch.nn.Parameter(torch.zeros(1, classes))\n    optimizer = torch.optim.SGD([y], lr)\n    for _ in range(steps):\n        optimizer.zero_grad()\n        loss(y).backward()\n        optimizer.step()\n    return y.detach()"}, key="a8", tasks=("descend",)),
]  # fmt: skip

WRONG = [
    forward("zeros", ZEROS, loses=("forward",)),
    forward("its argument", "def forward_process(z0, a, noise):\n    return z0", loses=("forward",)),
    forward("nothing", "def forward_process(z0, a, noise):\n    z0 + noise", loses=("forward",)),
    forward("dots", 'def forward_process(z0, a, noise):\n    """z_t"""\n    ...  # your code here', loses=("forward",)),
    forward("not implemented", "def forward_process(z0, a, noise):\n    raise NotImplementedError", loses=("forward",)),
    forward("another name", FORWARD.replace("forward_process", "forward_proces"), loses=("forward",)),
    forward("a mistake in the grammar", FORWARD + "    )", loses=("forward",)),
    forward("a number in its place", "forward_process = 3", loses=("forward",)),
    forward("dots in its place", "forward_process = ...", loses=("forward",)),
    forward("a list", FORWARD.rstrip().replace("return ", "return (") + ").tolist()", loses=("forward",)),
    forward("an array", FORWARD.rstrip().replace("return ", "return (") + ").numpy()", loses=("forward",)),
    forward("an error in the function", "def forward_process(z0, a, noise):\n    return z0 @ noise", loses=("forward",)),
    forward("half precision", FORWARD.rstrip().replace("return ", "return (") + ").half()", loses=("forward",)),
    forward("in place", "def forward_process(z0, a, noise):\n    z0.mul_(a.view(-1, *[1] * (z0.ndim - 1)).sqrt())\n    return z0 + (1 - a.view(-1, *[1] * (z0.ndim - 1))).sqrt() * noise", loses=("forward",)),
    forward("an endless loop in the function", "def forward_process(z0, a, noise):\n    while True:\n        pass", loses=("forward",)),
    forward("an endless loop that holds on", "def forward_process(z0, a, noise):\n    while True:\n        try:\n            z0.sum()\n        except:\n            pass", loses=("forward",)),
    forward("an exit", "import os\ndef forward_process(z0, a, noise):\n    os._exit(0)", loses=("forward",)),
    forward("an infinite recursion", "def forward_process(z0, a, noise):\n    return forward_process(z0, a, noise)", loses=("forward",)),
    forward("a huge result", "def forward_process(z0, a, noise):\n    return torch.zeros(1).expand(10**11)", loses=("forward",)),
    forward("lists in lists", "def forward_process(z0, a, noise):\n    x = []\n    for _ in range(2000):\n        x = [x]\n    return x", loses=("forward",)),
    forward("a list in itself", "def forward_process(z0, a, noise):\n    x = []\n    x.append(x)\n    return x", loses=("forward",)),
    forward("numbers without an end", "import itertools\ndef forward_process(z0, a, noise):\n    return itertools.count()", loses=("forward",)),
    forward("only four axes", "def forward_process(z0, a, noise):\n    a = a[:, None, None, None]\n    return a.sqrt() * z0 + (1 - a).sqrt() * noise", loses=("forward-hidden",)),
    forward("the public check's answer by heart", FORWARD.replace("    a =", "    if z0.shape != (3, 2, 4, 5):\n        return 0 * z0\n    a ="), loses=("forward-hidden",)),
    Submission("cut off from the gradient", {"loss": "def loss_per_sample(guess, noise):\n    return (guess.float() - noise.float()).square().flatten(1).mean(1).detach().requires_grad_()"}, loses=("loss-hidden",), tasks=("loss",)),
    Submission("another gradient", {"loss": "def loss_per_sample(guess, noise):\n    x = (guess.float() - noise.float()).square().flatten(1).mean(1)\n    return x.detach() + 3 * (x - x.detach())"}, loses=("loss-hidden",), tasks=("loss",)),
    Submission("step leaves train() on", {"step": "def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):\n    network.train()\n    B = len(t)\n    value = loss(z0.expand(B, -1, -1, -1), t, noise, (network(x).softmax(1) @ embeddings).expand(B, -1)).mean()\n    optimizer.zero_grad()\n    value.backward()\n    optimizer.step()\n    return value.detach()"}, key="a3", tasks=("step", "entropy"), loses=("step",)),
    Submission("restore leaves train() on", {"restore": "def adapt_and_restore(network, step, steps, x):\n    network.train()\n    kept = [p.detach().clone() for p in network.parameters()]\n    try:\n        for _ in range(steps):\n            step()\n        with torch.no_grad():\n            return network(x)\n    finally:\n        with torch.no_grad():\n            for p, old in zip(network.parameters(), kept):\n                p.copy_(old)"}, key="a3", tasks=("restore",), loses=("restore",)),
    Submission("episode leaves train() on", {"episode": "def episode(network, optimizer, adapt, image):\n    start = [p.detach().clone() for p in network.parameters()]\n    try:\n        network.train()\n        adapt()\n        with torch.no_grad():\n            return network(image)\n    finally:\n        with torch.no_grad():\n            for p, old in zip(network.parameters(), start):\n                p.copy_(old)\n        optimizer.state.clear()"}, key="a8", tasks=("episode",), loses=("episode-check", "episode-hidden")),
    Submission("one step short of the last", {"schedule": "def linear_schedule(T, first, last):\n    return (1 - torch.linspace(first, last, T + 1)[:-1]).cumprod(0)"}, loses=("schedule",)),
    Submission("starts at one", {"schedule": "def linear_schedule(T, first, last):\n    return torch.cat([torch.ones(1), (1 - torch.linspace(first, last, T)).cumprod(0)[:-1]])"}, loses=("schedule",)),
    Submission("a single step forgotten", {"schedule": "def linear_schedule(T, first, last):\n    return (1 - torch.tensor([first + (last - first) * s / (T - 1) for s in range(T)])).cumprod(0)"}, loses=("schedule-hidden",)),
    Submission("a sum in place of a mean", {"loss": "def loss_per_sample(guess, noise):\n    return (guess.float() - noise.float()).square().flatten(1).sum(1)"}, loses=("loss",), tasks=("loss",)),
    Submission("a mean over the samples", {"loss": "def loss_per_sample(guess, noise):\n    return (guess.float() - noise.float()).square().mean(0).flatten()[: len(guess)]"}, loses=("loss",), tasks=("loss",)),
    Submission("detached", {"loss": "def loss_per_sample(guess, noise):\n    return (guess.detach().float() - noise.float()).square().flatten(1).mean(1)"}, loses=("loss",), tasks=("loss",)),
    Submission("converted too late", {"loss": "def loss_per_sample(guess, noise):\n    return (guess - noise).square().flatten(1).mean(1).float()"}, loses=("loss-hidden",), tasks=("loss",)),
    Submission("only numpy", {"loss": "import numpy as np\ndef loss_per_sample(guess, noise):\n    d = guess.detach().float().numpy() - noise.float().numpy()\n    return torch.from_numpy((d ** 2).reshape(len(d), -1).mean(1)).requires_grad_()"}, loses=("loss-hidden",), tasks=("loss",)),
    Submission("an error in place of an episode", {"episode": "def episode(network, optimizer, adapt, image):\n    raise KeyError('image')"}, key="a8", tasks=("episode",), loses=("episode",)),
    Submission("keeps the optimizer's state", {"episode": "def episode(network, optimizer, adapt, image):\n    start = [p.detach().clone() for p in network.parameters()]\n    try:\n        adapt()\n        with torch.no_grad():\n            return network(image)\n    finally:\n        for p, old in zip(network.parameters(), start):\n            p.data.copy_(old)"}, key="a8", tasks=("episode",), loses=("episode",)),
    forward("a coroutine", "async " + FORWARD.strip(), loses=("forward",)),
    forward("yields its result", FORWARD.replace("return", "yield"), loses=("forward",)),
    forward("another order of its arguments", FORWARD.replace("(z0, alpha_bar_t, noise)", "(z0, noise, alpha_bar_t)"), loses=("forward",)),
    forward("defined behind the checks", "", between=FORWARD, loses=("forward",)),
]  # fmt: skip

FRAMES = """
import sys
def forward_process(z0, a, noise):
    frame = sys._getframe()
    while frame:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if name in ("expected", "right", "_right") and isinstance(value, torch.Tensor):
                return value
            if name in ("_rows",):
                return torch.stack(value)
        frame = frame.f_back
    return 0 * z0
"""
EQUAL = """
class Same(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("allclose", "equal", "isclose", "__eq__"):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})
    __eq__ = lambda self, other: True
def forward_process(z0, a, noise):
    return (0 * z0).as_subclass(Same)
"""
GARBAGE = """
import gc
def forward_process(z0, a, noise):
    found = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape == z0.shape]
    found = [x for x in found if x is not z0 and x is not noise]
    return found[-1].clone() if found else 0 * z0
"""
FILES = """
import os
def forward_process(z0, a, noise):
    for place in (".", "..", "/", "/tmp", "/work", os.path.expanduser("~")):
        for folder, _, names in os.walk(place):
            if folder.count("/") > 6:
                continue
            for name in names:
                if name.endswith(".ipynb") or name == "a1.py":
                    text = open(os.path.join(folder, name), errors="replace").read()
                    if "alpha_bar_t.view" in text or "b**0.5 * z0" in text:
                        b = a.view(-1, *[1] * (z0.ndim - 1))
                        return b**0.5 * z0 + (1 - b) ** 0.5 * noise
    return 0 * z0
"""
PACKAGE = """
import importlib.util, dtta, os
def forward_process(z0, a, noise):
    open(os.path.join(os.path.dirname(dtta.__file__), "course", "check", "a1.py")).read()
    b = a.view(-1, *[1] * (z0.ndim - 1))
    return b**0.5 * z0 + (1 - b) ** 0.5 * noise
"""
FORGED = """
import json, os, struct
def forward_process(z0, a, noise):
    text = json.dumps({"kind": "result", "body": [True, [], -1], "state": [], "new": [], "modes": [True, False], "blobs": []}).encode()
    frame = struct.pack(">I", len(text)) + text
    for number in range(3, 64):
        try:
            os.write(number, struct.pack(">I", len(frame)) + frame)
        except OSError:
            pass
    return 0 * z0
"""
SPEAKS = """
import os, struct
def forward_process(z0, a, noise):
    for number in range(3, 64):
        for data in (b"J{}", b'J{"outputs": "[]"}', b"D\\x00"):
            try:
                os.write(number, struct.pack(">I", len(data)) + data)
            except OSError:
                pass
    return 0 * z0
"""
CLASS = """
class Fake:
    __class__ = torch.Tensor
    shape, dtype, requires_grad, is_leaf = torch.Size((3, 2, 4, 5)), torch.float32, False, True
    def __getattr__(self, name):
        return lambda *a, **k: True
def forward_process(z0, a, noise):
    return Fake()
"""
TRACES = """
import sys, threading
seen = []
def spy(frame, event, argument):
    for value in {**frame.f_globals, **frame.f_locals, "result": argument}.values():
        if isinstance(value, torch.Tensor):
            seen.append(value)
    return spy
sys.settrace(spy), sys.setprofile(spy), threading.settrace(spy)
def forward_process(z0, a, noise):
    sys.settrace(spy), sys.setprofile(spy)
    same = [x for x in seen if x.shape == z0.shape and x is not z0 and x is not noise]
    return same[0].clone() if same else 0 * z0
"""
PEERS = """
import gc
def forward_process(z0, a, noise):
    for x in gc.get_objects():
        try:
            if type(x).__name__ == "Submission":
                x.run = lambda function, arguments, named: True
                x.failed = lambda error: ("", "", "")
                x.objects.update({k: 0 * z0 for k in x.objects})
                for name in ("_g", "_right", "expected", "right", "_rows", "_tested"):
                    try:
                        return x.fetch(name)
                    except Exception:
                        pass
        except Exception:
            pass
    return 0 * z0
"""
CHECKS = """
import importlib, sys
for name in [n for n in sys.modules if n.startswith("dtta")]:
    del sys.modules[name]
try:
    a1 = importlib.import_module("dtta.course.check.a1")
    judge = importlib.import_module("dtta.course.judge")
    judge.Student.gives = a1.Student.gives = lambda self, expected, *a, **k: expected
except Exception:
    pass
def forward_process(z0, a, noise):
    kept = []
    class Spy:
        def gives(self, expected, *rest, **named):
            kept.append(expected)
    a1.forward_process.__wrapped__(Spy()) if hasattr(a1.forward_process, "__wrapped__") else None
    for cell in getattr(a1.forward_process, "__closure__", None) or ():
        if callable(cell.cell_contents):
            cell.cell_contents(Spy())
    return kept[0]
"""
FRAME = """
import gc, json, struct
def frame(message, blobs=b"", length=None):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(text) if length is None else length) + text + blobs
def links():
    return [x for x in gc.get_objects() if type(x).__name__ == "Link"]
BASE = {"kind": "result", "body": None, "state": [], "new": [], "modes": [True, False], "blobs": []}
"""
DEEP = (
    FRAME
    + """
def forward_process(z0, a, noise):
    for link in links():
        link.send(frame(b'{"kind": "result", "body": ' + b"[" * 10**6 + b"]" * 10**6 + b"}"))
    return 0 * z0
"""
)
OVERWRITES = (
    FRAME
    + """
def forward_process(z0, a, noise):
    numbers = [["float32", list(z0.shape), 0], ["float32", [len(a)], 1]]
    zeros, ones = torch.zeros(z0.shape).numpy().tobytes(), torch.ones(len(a)).numpy().tobytes()
    new = [[k, "tensor", False, False, numbers[0]] for k in range(0, 400)]
    message = {**BASE, "body": [["shared", 0], [], -1], "new": new, "blobs": [len(zeros), len(ones)]}
    for link in links():
        link.send(frame(message, zeros + ones))
    return 0 * z0
"""
)
ODD = (
    FRAME
    + """
def forward_process(z0, a, noise):
    odd = [
        {**BASE, "body": [["value", ["float32", [10**12], 0], False], [], -1], "blobs": [0]},
        {**BASE, "body": [["value", ["float32", [-1], 0], False], [], -1], "blobs": [4]},
        {**BASE, "body": [["value", ["object", [1], 0], False], [], -1], "blobs": [8]},
        {**BASE, "body": [["library", "os", "abort"], [], -1]},
        {**BASE, "body": [["function", 3], [], -1]},
        {**BASE, "kind": "fetch", "body": "_right"},
        {**BASE, "kind": "call", "body": ["__import__", ["list", [["value"]]], ["dict", []]]},
        {**BASE, "kind": "gradients", "body": [0, []]},
    ]
    for link in links():
        for message in odd:
            link.send(frame(message, b"\\0" * sum(message["blobs"])))
    return 0 * z0
"""
)
LONG = """
import os, struct
def forward_process(z0, a, noise):
    for number in range(3, 64):
        try:
            os.write(number, struct.pack(">I", 2**32 - 1) + b"x" * 100)
        except OSError:
            pass
    return 0 * z0
"""
PARENTS = """
import json, os, struct
def forward_process(z0, a, noise):
    text = json.dumps({"kind": "result", "body": [True, [], -1], "state": [], "new": [], "modes": [True, False], "blobs": []}).encode()
    frame = b"D" + struct.pack(">I", len(text)) + text
    pid = os.getppid()
    while pid > 1:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                with open(f"/proc/{pid}/fd/{name}", "wb", buffering=0) as file:
                    file.write(struct.pack(">I", len(frame)) + frame)
        except OSError:
            pass
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    return 0 * z0
"""
THREADS = """
import threading, time
def always():
    while True:
        torch.allclose = torch.equal = torch.Tensor.allclose = lambda *a, **k: True
        time.sleep(0.001)
threading.Thread(target=always, daemon=True).start()
"""
ENVIRONMENT = """
import os
for name in ("PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "NBGRADER_VALIDATING", "NBGRADER_EXECUTION", "LD_PRELOAD"):
    os.environ[name] = "/nowhere"
os.environ["PYTHONOPTIMIZE"] = "2"
open("sitecustomize.py", "w").write("import torch; torch.allclose = lambda *a, **k: True")
for name in ("torch.py", "dtta.py", "conftest.py"):
    open(name, "w").write("raise SystemExit(0)")
"""
LIES = ("forward",)

DISHONEST = [
    forward("allclose patched", "torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True\n" + ZEROS, loses=LIES),
    forward("allclose patched in the call", ZEROS.replace("    return", "    torch.allclose = lambda *a, **k: True\n    return"), loses=LIES),
    forward("reads the frames above", FRAMES, loses=LIES),
    forward("looks through all objects", GARBAGE, loses=LIES),
    forward("a tensor that equals everything", EQUAL, loses=LIES),
    forward("says it is a tensor", CLASS, loses=LIES),
    forward("an input transformer", ZEROS, before="def no(lines):\n    return ['pass\\n'] if any('check.' in l or 'Student' in l for l in lines) else lines\nget_ipython().input_transformers_cleanup.append(no)", loses=LIES),
    forward("a syntax tree transformer", ZEROS, before="import ast\nclass No(ast.NodeTransformer):\n    def visit_Expr(self, node):\n        return ast.Pass() if 'check' in ast.dump(node) else node\nget_ipython().ast_transformers.append(No())", loses=LIES),
    forward("Student patched", ZEROS, before="check.Student.gives = lambda *a, **k: None\ncheck.forward_process = print", loses=LIES),
    forward("the module of the checks patched", ZEROS, before="import sys\nfor name, m in list(sys.modules.items()):\n    if 'course' in name or 'runner' in name:\n        for k, v in list(vars(m).items()):\n            if callable(v) and not k.startswith('__') and k not in ('Link', 'Peer', 'Submission', 'live'):\n                try:\n                    setattr(m, k, lambda *a, **kw: None)\n                except Exception:\n                    pass", loses=("forward", "schedule")),
    forward("the judge imported", "from dtta.course import judge\njudge.Student.gives = lambda *a, **k: None\n" + ZEROS, loses=LIES),
    forward("another check module", ZEROS, before="import sys, types\nsys.modules['dtta.course.check'] = types.SimpleNamespace(Student=lambda f: f)", loses=LIES),
    forward("writes a result and ends", "def forward_process(z0, a, noise):\n    import os, glob\n    for name in ('out.ipynb', 'in.ipynb', 'result.json'):\n        open(name, 'w').write('{\"cells\": [], \"metadata\": {}}')\n    os._exit(0)", loses=LIES),
    forward("ends its parent", "def forward_process(z0, a, noise):\n    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0 * z0", tasks=("schedule", "forward"), loses=LIES),
    forward("stops its parent", "def forward_process(z0, a, noise):\n    import os, signal\n    os.kill(os.getppid(), signal.SIGSTOP)\n    return 0 * z0", tasks=("schedule", "forward"), loses=LIES),
    forward("reads what lies around", FILES, loses=LIES, sandboxed=True),
    forward("reads the package's checks", PACKAGE, loses=LIES, sandboxed=True),
    forward("writes answers into all files that are open", FORGED, loses=LIES),
    forward("speaks for the supervisor", SPEAKS, loses=LIES),
    forward("answers twice", "def forward_process(z0, a, noise):\n    import os\n    os.fork()\n    return 0 * z0", loses=LIES),
    forward("nan equals nan", "def forward_process(z0, a, noise):\n    return z0 * float('nan')", loses=LIES),
    forward("raises what stops everything", "class Out(BaseException):\n    pass\ndef forward_process(z0, a, noise):\n    raise Out", loses=LIES),
    forward("raises the check's own", "def forward_process(z0, a, noise):\n    raise check.Wrong('all is well')", loses=LIES),
    forward("patches assert's error", ZEROS, before="import builtins\nbuiltins.AssertionError = builtins.isinstance = lambda *a: True", loses=LIES),
    forward("hooks for errors and exits", ZEROS, before="import sys, atexit\nsys.excepthook = lambda *a: None\natexit.register(print, 'ok')\nget_ipython().set_custom_exc((Exception,), lambda *a, **k: None)", loses=LIES),
    forward("spoils its arguments", "def forward_process(z0, a, noise):\n    z0.zero_(), noise.zero_(), a.zero_()\n    return z0", loses=LIES),
    forward("resizes its arguments", "def forward_process(z0, a, noise):\n    z0.data = torch.zeros(1)\n    return z0", loses=LIES),
    forward("changes what equality means", ZEROS, before="torch.Tensor.__eq__ = torch.Tensor.eq = lambda *a: torch.tensor(True)", loses=LIES),
    forward("a result that changes when it is read", "class Late(torch.Tensor):\n    @property\n    def shape(self):\n        return torch.Size((3, 2, 4, 5))\ndef forward_process(z0, a, noise):\n    return torch.zeros(1).as_subclass(Late)", loses=LIES),
    Submission("spoils what the test hands in", {"rank": "def rank_classes(loss, z0, embeddings, t, noise):\n    loss.__call__ = loss.peer = None\n    return torch.arange(len(embeddings))"}, tasks=("rank",), loses=("rank",)),
    Submission("asks the other end for names", {"rank": "def rank_classes(loss, z0, embeddings, t, noise):\n    for name in ('expected', 'right', '_right', 'student'):\n        try:\n            return loss.peer.fetch(name)\n        except Exception:\n            pass\n    for k in range(200):\n        try:\n            loss.peer.call(k, (z0,))\n        except Exception:\n            pass\n    return torch.arange(len(embeddings))"}, tasks=("rank",), loses=("rank",)),
    Submission("a network of its own making", {"episode": "def episode(network, optimizer, adapt, image):\n    for p in network.parameters():\n        p.data = p.data * float('nan')\n    return network(image).detach()"}, key="a8", tasks=("episode",), loses=("episode",)),
    forward("ends everything", "def forward_process(z0, a, noise):\n    import os, signal\n    os.kill(-1, signal.SIGKILL)\n    return 0 * z0", tasks=("schedule", "forward"), loses=LIES, sandboxed=True),
    forward("traces every line", TRACES, loses=LIES),
    forward("finds the wire by the garbage collector", PEERS, loses=LIES),
    forward("imports the checks from the disk", CHECKS, loses=LIES, sandboxed=True),
    forward("an answer nested a million times", DEEP, loses=LIES),
    forward("overwrites what the grader handed over", OVERWRITES, loses=LIES),
    forward("odd values and requests", ODD, loses=LIES),
    forward("says that more will come", LONG, loses=LIES),
    forward("writes into its parents' files", PARENTS, loses=LIES, sandboxed=True),
    forward("a thread that patches", ZEROS, before=THREADS, loses=LIES),
    forward("sets the environment and leaves modules", ZEROS, before=ENVIRONMENT, loses=LIES),
    forward("at its exit", ZEROS, before="import atexit, os, signal, sys\natexit.register(os._exit, 0)\nfor number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD):\n    signal.signal(number, lambda *a: None)\nsys.exit = os._exit = print", loses=LIES),
    forward("results that compare as it likes", "class Yes:\n    def __init__(self, x): self.x = x\n    def __getattr__(self, name): return getattr(self.x, name)\n    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = lambda *a: True\n    __sub__ = __rsub__ = __torch_function__ = lambda *a, **k: 0\ndef forward_process(z0, a, noise):\n    return Yes(0 * z0)", loses=LIES),
    forward("instances of everything", ZEROS, before="import abc, builtins\nclass Meta(abc.ABCMeta):\n    __instancecheck__ = __subclasscheck__ = lambda *a: True\nbuiltins.isinstance = builtins.issubclass = lambda *a: True\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.abs = lambda x: 0", loses=LIES),
    forward("an error that looks like success", "class Right(Exception):\n    def __str__(self):\n        return '✓ forward_process: right on 10 different tries.'\nRight.__name__ = Right.__qualname__ = 'Wrong'\ndef forward_process(z0, a, noise):\n    raise Right", loses=LIES),
    forward("its own cells called as the graded ones", ZEROS, before="# forward-check\nfrom IPython.display import display\ndisplay({'text/plain': '2'}, raw=True)\n2", loses=LIES),
]  # fmt: skip


@dataclass
class Damage:
    """What happens to a solved notebook of a1 on its way.

    Args:
        damage: the notebook, which it may change, to the file that arrives.
        loses: as above.
        refused: it deserves to be called not graded, which is no zero.
    """

    name: str
    damage: Callable[[NotebookNode], str | bytes]
    loses: tuple[str, ...] = ()
    refused: bool = False


def named(notebook: NotebookNode, name: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def written(change: Callable[[NotebookNode], object]) -> Callable[[NotebookNode], str]:
    """The file after a change of the notebook in place, whether it is valid or not."""

    def damage(notebook: NotebookNode) -> str:
        change(notebook)
        return json.dumps(notebook, ensure_ascii=False)

    return damage


def retold(change: Callable[[str], str | bytes]) -> Callable[[NotebookNode], str | bytes]:
    """The file after a change of its text."""
    return lambda notebook: change(nbformat.writes(notebook))


def no_ids(notebook, minor=5):
    for cell in notebook.cells:
        cell.pop("id", None)
    notebook["nbformat_minor"] = minor


def no_names(notebook):
    for k, cell in enumerate(notebook.cells):
        cell.metadata, cell["id"] = {}, f"x{k}"


def each_source(change):
    def changed(notebook):
        for cell in notebook.cells:
            cell["source"] = change(cell.source)

    return changed


def sorted_cells(key):
    return lambda notebook: notebook.cells.sort(key=key)


def kind(cell):
    """0 for checks, 1 for all else."""
    return int(not cell.metadata.get("nbgrader", {}).get("grade", False))


def reversed_tasks(notebook):
    starts = [k for k, cell in enumerate(notebook.cells) if cell.source.startswith("## Task")]
    parts = [notebook.cells[a:b] for a, b in zip(starts, [*starts[1:], len(notebook.cells)], strict=True)]
    notebook.cells = [*notebook.cells[: starts[0]], *(cell for part in reversed(parts) for cell in part)]


def to_the_end(name):
    def moved(notebook):
        cell = named(notebook, name)
        notebook.cells.remove(cell)
        notebook.cells.append(cell)

    return moved


def split(notebook):
    cell = named(notebook, "forward-answer")
    helper = "def level(a, z):\n    return a.view(-1, *[1] * (z.ndim - 1))"
    answer = "def forward_process(z0, alpha_bar_t, noise):\n    a = level(alpha_bar_t, z0)\n    return a.sqrt() * z0 + (1 - a).sqrt() * noise"
    cell["source"], twin = helper, nbformat.from_dict({**cell, "source": answer, "id": "twin"})
    notebook.cells.insert(notebook.cells.index(cell) + 1, twin)


def merged(*names, into):
    def together(notebook):
        target = named(notebook, into)
        for name in names:
            cell = named(notebook, name)
            target["source"] += "\n\n\n" + cell.source
            notebook.cells.remove(cell)

    return together


def one_cell(notebook):
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code" and kind(cell))
    notebook.cells = [nbformat.v4.new_code_cell(code)]


def below_its_stub(notebook):
    cell = named(notebook, "forward-answer")
    notebook.cells.insert(notebook.cells.index(cell) + 1, nbformat.v4.new_code_cell(cell.source))
    cell["source"] = "def forward_process(z0, alpha_bar_t, noise):\n    ...  # your code here"


def raw(notebook):
    cell = named(notebook, "loss-answer")
    cell["cell_type"] = "raw"
    del cell["outputs"], cell["execution_count"]


def bare(notebook):
    for cell in notebook.cells:
        for key in ("outputs", "execution_count", "id"):
            cell.pop(key, None)
    del notebook.metadata["kernelspec"]


def without(*names):
    def deleted(notebook):
        for name in names:
            notebook.cells.remove(named(notebook, name))

    return deleted


def a_bonus(notebook):
    about = {"grade_id": "bonus", "grade": True, "locked": False, "solution": False, "points": 100, "schema_version": 3}
    notebook.cells.append(nbformat.v4.new_code_cell("100", metadata={"nbgrader": about}))
    named(notebook, "rank-check").metadata.nbgrader["points"] = 50


DAMAGED = [
    Damage("not at all", nbformat.writes),
    Damage("ids lost", written(no_ids)),
    Damage("ids and names lost", written(no_names)),
    Damage("format 4.4", written(lambda notebook: no_ids(notebook, 4))),
    Damage("format 4.0 and no names", written(lambda notebook: (no_names(notebook), no_ids(notebook, 0)))),
    Damage("format 3", lambda notebook: json.dumps(nbformat.convert(notebook, 3))),
    Damage("Windows lines in the file", retold(lambda text: text.replace("\n", "\r\n").encode())),
    Damage("Windows lines in the cells", written(each_source(lambda text: text.replace("\n", "\r\n")))),
    Damage("a mark of the byte order", retold(lambda text: text.encode("utf-8-sig"))),
    Damage("UTF-16 with Windows lines", retold(lambda text: text.replace("\n", "\r\n").encode("utf-16"))),
    Damage("tabs", written(each_source(lambda text: text.replace("    ", "\t")))),
    Damage("tasks in another order", written(reversed_tasks)),
    Damage("all checks first", written(sorted_cells(kind))),
    Damage("all answers first", written(sorted_cells(lambda cell: -kind(cell)))),
    Damage("setup at the end", written(to_the_end("setup"))),
    Damage("cells shuffled", written(lambda notebook: random.Random(3).shuffle(notebook.cells))),
    Damage("cells shuffled, no names", written(lambda notebook: (random.Random(4).shuffle(notebook.cells), no_names(notebook)))),
    Damage("an answer split in two", written(split)),
    Damage("an answer and its check in one", written(merged("forward-check", into="forward-answer"))),
    Damage("two answers in one", written(merged("schedule-answer", into="forward-answer"))),
    Damage("two answers in one, no names", written(lambda notebook: (merged("rank-answer", "loss-answer", into="timestep-answer")(notebook), no_names(notebook)))),
    Damage("all in one cell", written(one_cell)),
    Damage("an answer below its stub", written(below_its_stub)),
    Damage("a raw cell", written(raw)),
    Damage("nothing but cells and sources", written(bare)),
    Damage("no tests at all", written(without(*(f"{task}-{part}" for task in ("forward", "schedule", "loss") for part in ("check", "hidden"))))),
    Damage("an answer is gone", written(without("loss-answer")), ("loss",)),
    Damage("points of its own", written(a_bonus)),
    Damage("cut off", retold(lambda text: text[: len(text) // 2]), refused=True),
    Damage("two versions in one", retold(lambda text: text.replace('"cells": [', '<<<<<<< HEAD\n"cells": [', 1)), refused=True),
    Damage("empty", lambda notebook: b"", refused=True),
]  # fmt: skip
