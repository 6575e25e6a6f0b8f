'use client';

import { useState } from 'react';

const ITEMS = ['Coffee beans', 'Espresso cups', 'Paper filters'];

interface Order {
  id: string;
  item: string;
  isShipped?: boolean;
}

/** Places orders as a shop's page would, and ships them as its back office would: through the API. */
export function OrderForm({ userId }: { userId: string }) {
  const [orders, setOrders] = useState<Order[]>([]);

  async function post(path: string, body: object) {
    const response = await fetch(path, { method: 'POST', body: JSON.stringify({ userId, ...body }) });
    return response.json();
  }

  async function place(item: string) {
    const { id } = await post('/api/orders', { item });
    setOrders((before) => [...before, { id, item }]);
  }

  async function ship({ id }: Order) {
    await post('/api/orders/ship', { orderId: id });
    setOrders((before) => before.map((order) => (order.id === id ? { ...order, isShipped: true } : order)));
  }

  return (
    <section>
      <div className="items">
        {ITEMS.map((item) => (
          <button key={item} onClick={() => place(item)}>
            {item}
            <span>Order</span>
          </button>
        ))}
      </div>
      <h2>Your orders</h2>
      <ul className="orders">
        {orders.map((order) => (
          <li key={order.id}>
            {order.id}: {order.item}
            {order.isShipped ? <em>shipped</em> : <button onClick={() => ship(order)}>Ship {order.id}</button>}
          </li>
        ))}
      </ul>
      {orders.length === 0 && (
        <p className="hint">Order something: the bell rings when the order is placed, in every tab.</p>
      )}
    </section>
  );
}
