// What the server gives: JSON whose arrays are float32 in base64, kept as long as they are of use.

const KEPT_CHUNKS = 24;

export async function ask(route, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  let answer;
  try {
    answer = await (await fetch(query ? `./${route}?${query}` : `./${route}`)).json();
  } catch {
    throw new Error("TensorBoard does not answer; is it still running?");
  }
  if (answer.problem) throw new Error(answer.problem);
  return revive(answer);
}

function revive(value) {
  if (value === null || typeof value !== "object") return value;
  if (value.float32 !== undefined) return decode(value);
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(revive) : value;
  return Object.fromEntries(Object.entries(value).map(([key, own]) => [key, revive(own)]));
}

function decode({ shape, float32 }) {
  const text = atob(float32);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return { shape, values: new Float32Array(bytes.buffer) };
}

// One unroll. Points are its recorded steps, in order.
export class Unroll {
  static async load(run, unroll) {
    const own = new Unroll();
    Object.assign(own, await ask("unroll", { run, unroll }), { run, unroll });
    own.losses = own.losses.values;
    own.title = own.unroll ? `${run}, outer step ${unroll}` : run;
    own.loaded = new Map();
    own.known = new Map();
    own.names = new Map(own.tensors.map((tensor, index) => [tensor.name, index]));
    return own;
  }

  // The last point at or before a step; the first where there is none.
  pointOf(step) {
    let low = 0;
    let high = this.steps.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.steps[middle] <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // All tensors at a point: values[tensor * quantities + quantity] from `offset`; a promise where it is not here yet.
  table(point) {
    let index = this.starts.length - 1;
    while (this.starts[index] > point) index--;
    for (const beside of [index + 1, index - 1]) this.#chunk(beside);
    const found = this.#chunk(index);
    const width = this.tensors.length * this.quantities.length;
    const cut = (chunk) => ({ values: chunk.values, offset: (point - this.starts[index]) * width });
    return found instanceof Promise ? found.then(cut) : cut(found);
  }

  #chunk(index) {
    if (index < 0 || index >= this.chunks.length) return undefined;
    if (!this.loaded.has(index)) {
      const parameters = { run: this.run, unroll: this.unroll, chunk: this.chunks[index] };
      const waiting = ask("table", parameters).then((answer) => {
        this.loaded.set(index, answer.values);
        return answer.values;
      });
      waiting.catch(() => this.loaded.delete(index));
      this.loaded.set(index, waiting);
      if (this.loaded.size > KEPT_CHUNKS) this.loaded.delete(this.loaded.keys().next().value);
    }
    return this.loaded.get(index);
  }

  // What a route gives of a tensor, asked for once.
  of(route, parameters) {
    const key = JSON.stringify([route, parameters]);
    if (!this.known.has(key)) {
      const waiting = ask(route, { run: this.run, unroll: this.unroll, ...parameters });
      waiting.catch(() => this.known.delete(key));
      this.known.set(key, waiting);
    }
    return this.known.get(key);
  }
}

export class Unrolls {
  constructor() {
    this.loaded = new Map();
  }

  load(run, unroll) {
    const key = JSON.stringify([run, unroll]);
    if (!this.loaded.has(key)) {
      const waiting = Unroll.load(run, unroll);
      waiting.catch(() => this.loaded.delete(key));
      this.loaded.set(key, waiting);
    }
    return this.loaded.get(key);
  }
}
