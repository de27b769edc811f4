#!/usr/bin/env python3
"""Times lensnet beside PyTorch, ONNX Runtime, OpenVINO and ncnn on this machine, and prints the README's tables.

usage:  pip install torch timm numpy onnx onnxscript onnxruntime openvino ncnn pnnx   (best in a virtual environment)
        python3 tools/compare_peers.py [--variant tiny|resnet18|...] [--size 224] [--threads 2] [--batch 1,32]
                                       [--what forward,train] [--rounds 11]
                                       [--peers torch,compile,onnxruntime,openvino,ncnn]
                                       [--table fp32,fastest]

Every contender is a process of its own that does one forward pass, or one training step (forward, backward,
AdamW), when it is told to. All of them take turns, round after round, so that a slow minute of the machine
hits all alike; the tables show medians of the rounds. All have the same number of threads. In the table fp32 all
compute in float32; in the table fastest each is as fast as its user gets it without losing the class: lensnet in
bf16, PyTorch under autocast to bfloat16, OpenVINO without a hint of the precision (it takes bfloat16 where the
processor has it), ncnn with its 16-bit options, ONNX Runtime, which has nothing of the kind, as before.
A peer is tried in several settings (PyTorch: channels last or not; OpenVINO: all threads on the whole batch, or a
thread and a stream for each part of it; ncnn: image after image with all threads, or an image to each thread) and
shown in its best one. The network of the peers is timm's, for ncnn put into operations that it knows and is fast
at (see convert below); training on 32 images at most. What is not installed or fails is named and left out.
"""
import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
PEERS = {  # name in the table, then the settings that are tried
    'torch': ('PyTorch', ['torch-plain', 'torch-channels_last']),
    'compile': ('PyTorch, torch.compile', ['compile-plain', 'compile-channels_last']),
    'onnxruntime': ('ONNX Runtime', ['onnxruntime']),
    'openvino': ('OpenVINO', ['openvino', 'openvino-streams']),
    'ncnn': ('ncnn', ['ncnn', 'ncnn-streams'])}
TABLES = ('fp32', 'fastest')
TRAINABLE = ('torch', 'compile')


# ---- contenders: each of these runs in a process of its own ----------------------------------------------

def serve(work):
    work()  # compiles and warms up
    work()
    print('ready', flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print('%.9f' % (time.perf_counter() - start), flush=True)


def network_of(a):
    """timm's name: a variant of ConvNeXt V2, or a network of examples/backbones.h."""
    ours = 'atto', 'femto', 'pico', 'nano', 'tiny', 'base', 'large', 'huge'
    return 'convnextv2_' + a.variant if a.variant in ours else a.variant


def torch_network(a, **options):
    import timm
    import torch
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if '_patch16' in a.variant:
        options['img_size'] = a.size
    model = timm.create_model(network_of(a), num_classes=3, **options)
    x = torch.randn(a.count, 3, a.size, a.size)
    if 'channels_last' in a.worker:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return torch, model, x


def autocast(torch, a):
    return torch.autocast('cpu', dtype=torch.bfloat16, enabled=a.table == 'fastest')


def torch_forward(a):
    torch, model, x = torch_network(a)
    model.eval()
    if a.worker.startswith('compile'):
        model = torch.compile(model)

    def work():
        with torch.inference_mode(), autocast(torch, a):
            model(x)
    serve(work)


def torch_train(a):
    torch, model, x = torch_network(a)
    labels = torch.arange(a.count) % 3
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    model.train()
    run = torch.compile(model) if a.worker.startswith('compile') else model

    def work():
        optimiser.zero_grad()
        with autocast(torch, a):
            loss = torch.nn.functional.cross_entropy(run(x).float(), labels)
        loss.backward()
        optimiser.step()
    serve(work)


def export(a, folder):
    torch, model, x = torch_network(a)
    path = os.path.join(folder, 'network.onnx')
    torch.onnx.export(model.eval(), (x,), path, dynamo=True, verbose=False)
    return path, x.numpy()


def onnxruntime_forward(a):
    import onnxruntime
    with tempfile.TemporaryDirectory() as folder:
        path, x = export(a, folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = a.threads
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: x}
    serve(lambda: session.run(None, feed))


def openvino_forward(a):
    import openvino
    streams = a.threads if a.worker.endswith('streams') else 1
    if a.count % streams or a.worker.endswith('streams') and a.count == 1:
        raise SystemExit('the batch cannot be dealt to %d streams' % streams)
    a.count //= streams
    with tempfile.TemporaryDirectory() as folder:
        path, x = export(a, folder)
        settings = {'INFERENCE_NUM_THREADS': a.threads, 'NUM_STREAMS': streams}
        if a.table == 'fp32':
            settings['INFERENCE_PRECISION_HINT'] = 'f32'
        compiled = openvino.Core().compile_model(path, 'CPU', settings)
    requests = [compiled.create_infer_request() for _ in range(streams)]

    def work():
        for request in requests:
            request.start_async([x])
        for request in requests:
            request.wait()
    serve(work)


def convert(a, folder):
    """Writes the network in ncnn's form; returns the images, and what PyTorch makes of the first of them.

    Two things change, neither of them the result: the dense layers of a block become convolutions of 1 x 1 (ncnn is
    several times slower at the matrix products that they would be), and the response normalisation does without
    addcmul, which pnnx cannot convert. Its weights, zero in a new network, are drawn so that the result shows it.
    """
    import pnnx
    from timm.layers.grn import GlobalResponseNorm

    def normalise(self, x):
        norm = x.norm(p=2, dim=self.spatial_dim, keepdim=True)
        share = norm / (norm.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return x * (share * self.weight.view(self.wb_shape) + 1) + self.bias.view(self.wb_shape)

    torch, model, x = torch_network(a, conv_mlp=True)
    with torch.no_grad():
        for layer in model.eval().modules():
            if isinstance(layer, GlobalResponseNorm):
                torch.nn.init.normal_(layer.weight)
                torch.nn.init.normal_(layer.bias)
        expected = model(x[:1]).numpy()[0]
        GlobalResponseNorm.forward = normalise
        torch.jit.trace(model, x[:1], check_trace=False).save(os.path.join(folder, 'network.pt'))
    subprocess.run([pnnx.EXEC_PATH, 'network.pt', 'inputshape=[1,3,%d,%d]' % (a.size, a.size), 'fp16=0'], cwd=folder,
                   check=True, capture_output=True)
    return x.numpy(), expected


def ncnn_forward(a):
    import concurrent.futures
    import ncnn
    import numpy
    streams = a.worker.endswith('streams')
    if streams and a.count == 1:
        raise SystemExit('one image cannot be dealt to streams')
    net = ncnn.Net()
    net.opt.num_threads = 1 if streams else a.threads
    for option in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(net.opt, option, a.table == 'fastest')
    with tempfile.TemporaryDirectory() as folder:
        images, expected = convert(a, folder)
        if net.load_param(os.path.join(folder, 'network.ncnn.param')) or net.load_model(
                os.path.join(folder, 'network.ncnn.bin')):
            raise SystemExit('ncnn cannot load what pnnx has written')
    images = [ncnn.Mat(image).clone() for image in images]

    def work(image):
        extractor = net.create_extractor()
        extractor.input('in0', image)
        return extractor.extract('out0')[1]

    if not numpy.abs(numpy.array(work(images[0])) - expected).max() < (1e-4 if a.table == 'fp32' else 5e-2):
        raise SystemExit('the result is not that of PyTorch')
    if not streams:
        serve(lambda: [work(image) for image in images])
        return
    with concurrent.futures.ThreadPoolExecutor(a.threads) as pool:
        serve(lambda: list(pool.map(work, images)))


def work_as_contender(a):
    sys.stdout.reconfigure(line_buffering=True)
    if a.worker.startswith(('torch', 'compile')):
        (torch_train if a.what == 'train' else torch_forward)(a)
    elif a.worker == 'onnxruntime':
        onnxruntime_forward(a)
    elif a.worker.startswith('ncnn'):
        ncnn_forward(a)
    else:
        openvino_forward(a)


# ---- the race --------------------------------------------------------------------------------------------

class Contender:
    def __init__(self, name, command, threads, greets):
        self.name, self.times = name, []
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self.log = tempfile.TemporaryFile(mode='w+')
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env=environment)
        line = ''
        while greets and line.strip() != 'ready':
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(self.last_words())

    def last_words(self):
        self.process.wait()
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ['no reason given'])[-1]

    def run(self):
        self.process.stdin.write('go\n')
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.last_words())
        self.times.append(float(line))
        time.sleep(0.1)  # the threads of most runtimes spin for a while after their work

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(name, command, threads, greets):
    try:
        return Contender(name, command, threads, greets)
    except (RuntimeError, OSError) as problem:
        print('    %s is left out: %s' % (name, problem), file=sys.stderr)
        return None


def race(a, table, what, count, program):
    """Median seconds an image, by contender setting."""
    ours = [program, what, a.variant, str(a.size), str(count), str(a.threads), 'fp32' if table == 'fp32' else 'bf16']
    contenders = [start('lensnet', ours, a.threads, False)]
    if contenders[0] is None:
        sys.exit('lensnet itself did not start')
    for peer in filter(None, a.peers.split(',')):
        if what == 'train' and peer not in TRAINABLE:
            continue
        for setting in PEERS[peer][1]:
            command = [sys.executable, os.path.abspath(__file__), '--worker', setting, '--what', what,
                       '--variant', a.variant, '--size', str(a.size), '--count', str(count),
                       '--threads', str(a.threads), '--table', table]
            contenders.append(start(setting, command, a.threads, True))
    contenders = [c for c in contenders if c is not None]
    for c in contenders[:1]:
        c.run()  # warm-up, as the others had
        c.times.clear()
    for _ in range(a.rounds):
        for c in list(contenders):
            try:
                c.run()
            except (RuntimeError, OSError) as problem:
                print('    %s is left out: %s' % (c.name, problem), file=sys.stderr)
                contenders.remove(c)
    for c in contenders:
        c.close()
    return {c.name: statistics.median(c.times) / count for c in contenders}


# ---- the table -------------------------------------------------------------------------------------------

def build(folder, name):
    program = os.path.join(folder, name)
    subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-fopenmp', '-I.', 'tools/%s.c' % name, '-o', program, '-lm'],
                   cwd=ROOT, check=True)
    return program


def limit_of(program, threads):
    import json
    answer = subprocess.run([program, '--what', 'limit', '--threads', str(threads), '--seconds', '0.2', '--json'],
                            check=True, capture_output=True, text=True)
    answer = json.loads(answer.stdout)
    limits = answer['limit_gflops'][str(threads)], answer['limit_gflops_bf16'][str(threads)]
    return answer['processor'], answer['isa'], dict(zip(TABLES, limits))


def multiply_accumulates(a, program):
    return float(subprocess.run([program, 'macs', a.variant, str(a.size)], check=True, capture_output=True).stdout)


def versions():
    found = []
    for name in ('torch', 'timm', 'onnxruntime', 'openvino', 'ncnn'):
        try:
            module = __import__(name)
            found.append('%s %s' % (name, module.__version__.split('-')[0]))
        except ImportError:
            pass
    return ', '.join(found)


def print_rows(title, seconds, flops, limit):
    ours = seconds.pop('lensnet')
    row = '| %-28s | %-34s | %8.1f | %5.1f %% | %7s |'
    print(row % (title, 'lensnet', 1e3 * ours, 100 * flops / ours / 1e9 / limit, ''))
    for peer, settings in PEERS.values():
        best = min(((seconds[s], s) for s in settings if s in seconds), default=None)
        if best:
            setting = {'channels_last': ', channels last', 'streams': ', streams'}.get(best[1].split('-')[-1], '')
            print(row % ('', peer + setting, 1e3 * best[0], 100 * flops / best[0] / 1e9 / limit,
                         '%.2f x' % (best[0] / ours)), flush=True)


def print_table(a, table, program, limit):
    print('| %-28s | %-34s | %8s | %7s | %7s |' % (network_of(a), '', 'ms/image', 'limit', 'lensnet'))
    print('|---|---|---:|---:|---:|')
    for what in a.what.split(','):
        for count in [int(n) for n in a.batch.split(',')]:
            if what == 'train' and count == 1:
                continue
            flops = 2 * multiply_accumulates(a, program) * (3 if what == 'train' else 1)
            print_rows('%s, %d px, batch %d' % (what, a.size, count), race(a, table, what, count, program), flops,
                       limit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='tiny')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--batch', default='1,32')
    parser.add_argument('--what', default='forward,train')
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--peers', default='torch,compile,onnxruntime,openvino,ncnn')
    parser.add_argument('--table', default=','.join(TABLES))
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--count', type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        work_as_contender(a)
        return
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder, 'compare_peers')
        processor, isa, limits = limit_of(build(folder, 'bench'), a.threads)
        for table in a.table.split(','):
            print('%s, %s, %d thread%s, limit %.0f GFLOP/s, %s; %s; %s; median of %d rounds\n' % (
                processor, isa, a.threads, '' if a.threads == 1 else 's', limits[table], platform.system(), versions(),
                table, a.rounds))
            print_table(a, table, program, limits[table])
            print()


main()
