'use client';

import { useState } from 'react';

const ITEMS = ['Coffee beans', 'Espresso cups', 'Paper filters'];

/** Places orders as a shop's page would: through the app's own API. */
export function OrderForm({ userId }: { userId: string }) {
  const [placed, setPlaced] = useState<string[]>([]);

  async function order(item: string) {
    const response = await fetch('/api/orders', { method: 'POST', body: JSON.stringify({ userId, item }) });
    const { id } = await response.json();
    setPlaced((before) => [...before, `${id}: ${item}`]);
  }

  return (
    <section>
      <div className="items">
        {ITEMS.map((item) => (
          <button key={item} onClick={() => order(item)}>
            {item}
            <span>Order</span>
          </button>
        ))}
      </div>
      <h2>Your orders</h2>
      <ul className="orders">
        {placed.map((line) => (
          <li key={line}>{line}</li>
        ))}
      </ul>
      {placed.length === 0 && <p className="hint">Order something: the bell rings when the order is placed, in every tab.</p>}
    </section>
  );
}
