// One Web Worker: onnxruntime-web on one thread, and the graphs that it is asked for. The engine starts it from a blob of
// the runtime's script and this function's source, which works from file:// too.
dttaLive.worker = function () {
  const sessions = {};
  const calls = {
    async load({ module, binary, graphs, weights }) {
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([module], { type: "text/javascript" })) };
      ort.env.wasm.wasmBinary = binary;
      ort.env.logLevel = "error";
      for (const [name, graph] of Object.entries(graphs)) {
        const data = { path: "diffusion", data: new Uint8Array(weights) };
        const externalData = name === "gradient" || name === "losses" ? [data] : [];
        sessions[name] = await ort.InferenceSession.create(new Uint8Array(graph), { externalData, logSeverityLevel: 3 });
      }
    },

    async run({ graph, inputs }) {
      const tensors = {};
      for (const [name, [data, shape]] of Object.entries(inputs)) {
        tensors[name] = new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, shape);
      }
      const outputs = await sessions[graph].run(tensors);
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
    },
  };
  self.onmessage = async ({ data: { id, call, args } }) => {
    try {
      self.postMessage({ id, result: await calls[call](args) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  };
};
