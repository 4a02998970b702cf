"""python llama_server.py PORT MODEL.gguf [ADAPTER.gguf]: llama.cpp's own server, until it is
told to end. It runs in an environment that has xllamacpp.
"""

import signal
import sys

import xllamacpp

port, model, *adapter = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.n_ctx = 1024
params.n_parallel = 1
params.cpuparams.n_threads = 1
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapter]
server = xllamacpp.Server(params)
signal.pause()
