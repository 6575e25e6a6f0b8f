/** A database of orders, as long as the process lives. */
export interface Order {
  id: string;
  userId: string;
  item: string;
}

const orders: Order[] = [];

export const db = {
  orders: {
    async create(order: Omit<Order, 'id'>): Promise<Order> {
      const saved = { ...order, id: `A-${1001 + orders.length}` };
      orders.push(saved);
      return saved;
    },
  },
};
