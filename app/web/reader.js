// The server reads along: every finished word is sent once, and the session at the server remembers it.

/** What the server said instead of an answer. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `The server answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

async function post(body) {
  let response;
  try {
    response = await fetch("v1/predict", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refusal(0, { detail: "The server does not answer. Your text is safe here; type on to try again." });
  }
  const reply = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, reply);
  return reply;
}

export class Reader {
  #read = ""; // the text that the session has consumed
  #session = null;
  #position = 0;

  get session() {
    return this.#session;
  }

  /** Start from nothing at the next call. */
  forget() {
    this.#read = "";
    this.#session = null;
    this.#position = 0;
  }

  /**
   * Bring the session to the end of `finished` and ask what comes next, given that it starts with `typed`.
   * Text that was changed further back is read anew, in a new session.
   */
  async predict(finished, typed, count) {
    if (!finished.startsWith(this.#read)) this.forget();
    const news = finished.slice(this.#read.length);
    const request = { top_k: count, prefix: typed, ...(news.trim() || news.includes("\n") ? { text: news } : {}) };
    if (this.#session) Object.assign(request, { session_id: this.#session, position: this.#position });
    let reply;
    try {
      reply = await post(request);
    } catch (error) {
      // Expired, evicted, or moved on from another tab: the text is still here, so read it again.
      if (this.#session && [404, 409, 410].includes(error.status)) {
        this.forget();
        return this.predict(finished, typed, count);
      }
      throw error;
    }
    this.#read = finished;
    this.#session = reply.session_id;
    this.#position = reply.position;
    return reply;
  }
}
