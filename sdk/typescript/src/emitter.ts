interface Listener {
  (...told: any[]): void;
  /** What was given to `once`, where this stands for it. */
  once?: Listener;
}

/** Listeners by event name. A listener that throws harms neither the others nor its caller. */
export class Emitter<Events extends { [E in keyof Events]: unknown[] }> {
  private readonly listeners = new Map<keyof Events, Set<Listener>>();

  /** Adds a listener. */
  on<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const all = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, all.add(listener));
    return this;
  }

  /** Adds a listener for the next time alone. */
  once<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const next: Listener = (...told: Events[E]) => {
      this.off(event, next);
      listener(...told);
    };
    next.once = listener;
    return this.on(event, next);
  }

  /** Takes a listener away. */
  off<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const all = this.listeners.get(event) ?? new Set();
    for (const one of all) if (one === listener || one.once === listener) all.delete(one);
    if (!all.size) this.listeners.delete(event);
    return this;
  }

  /** Takes all listeners of an event away, or all there are. */
  removeAllListeners(event?: keyof Events): this {
    if (event === undefined) this.listeners.clear();
    else this.listeners.delete(event);
    return this;
  }

  listenerCount(event: keyof Events): number {
    return this.listeners.get(event)?.size ?? 0;
  }

  /** The events that somebody listens to. */
  eventNames(): (keyof Events)[] {
    return [...this.listeners.keys()];
  }

  /** Returns whether anybody listens. */
  protected emit<E extends keyof Events>(event: E, ...told: Events[E]): boolean {
    const all = [...(this.listeners.get(event) ?? [])];
    for (const listener of all) guarded(listener, ...told);
    return all.length > 0;
  }
}

/** Calls what belongs to the user; what it throws is reported and goes no further. */
export function guarded<T extends unknown[]>(callback: ((...told: T) => void) | undefined, ...told: T): void {
  try {
    callback?.(...told);
  } catch (error) {
    console.error('[pushflo] a listener threw', error);
  }
}
