// app/api/orders/route.ts
import { NextResponse } from 'next/server';
import { db } from '@/lib/db';

export async function POST(request: Request) {
  const order = await request.json();

  // Save the order to your database
  const savedOrder = await db.orders.create(order);

  // Send real-time notification to the user
  await fetch(`${process.env.NEXT_PUBLIC_PUSHFLO_URL}/api/v1/publish`, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'Authorization': `Bearer ${process.env.PUSHFLO_API_KEY}`,
    },
    body: JSON.stringify({
      channel: `user-${order.userId}`,
      event: 'new-order',
      data: {
        orderId: savedOrder.id,
        message: 'Your order has been placed!',
        timestamp: new Date().toISOString(),
      },
    }),
  });

  return NextResponse.json(savedOrder);
}
