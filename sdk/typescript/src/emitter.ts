/** Listeners by event name. A listener that throws harms neither the others nor its caller. */
export class Emitter<Events extends object> {
  private readonly listeners = new Map<keyof Events, Set<(payload: never) => void>>();

  /** Adds a listener; what is returned takes it away again. */
  on<E extends keyof Events>(event: E, listener: (payload: Events[E]) => void): () => void {
    const all = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, all.add(listener));
    return () => this.off(event, listener);
  }

  off<E extends keyof Events>(event: E, listener: (payload: Events[E]) => void): void {
    this.listeners.get(event)?.delete(listener);
  }

  emit<E extends keyof Events>(event: E, payload: Events[E]): void {
    for (const listener of [...(this.listeners.get(event) ?? [])]) {
      guarded(listener as (payload: Events[E]) => void, payload);
    }
  }

  clear(): void {
    this.listeners.clear();
  }
}

/** Calls what belongs to the user; what it throws is reported and goes no further. */
export function guarded<T>(callback: ((payload: T) => void) | undefined, payload: T): void {
  try {
    callback?.(payload);
  } catch (error) {
    console.error('[pushflo] a listener threw', error);
  }
}
