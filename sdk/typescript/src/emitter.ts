type Listener = (...told: any[]) => void;

/** Listeners by event name. A listener that throws harms neither the others nor its caller. */
export class Emitter<Events extends { [E in keyof Events]: unknown[] }> {
  private readonly listeners = new Map<keyof Events, Set<Listener>>();
  /** Those of `once`, by what was given. */
  private readonly wrapped = new Map<Listener, Listener>();

  /** Adds a listener. */
  on<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const all = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, all.add(listener));
    return this;
  }

  /** Adds a listener for the next time alone. */
  once<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const once = (...told: Events[E]) => {
      this.off(event, listener);
      listener(...told);
    };
    this.wrapped.set(listener, once);
    return this.on(event, once);
  }

  /** Takes a listener away. */
  off<E extends keyof Events>(event: E, listener: (...told: Events[E]) => void): this {
    const all = this.listeners.get(event);
    const once = this.wrapped.get(listener);
    all?.delete(listener);
    if (once && all?.delete(once)) this.wrapped.delete(listener);
    if (!all?.size) this.listeners.delete(event);
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
