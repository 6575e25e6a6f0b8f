import { PushFloServer } from '@pushflodev/sdk/server';
import { NextResponse } from 'next/server';

/** Reads its key and PushFlo's address from the environment; tries again where that is safe. */
const pushflo = new PushFloServer();

export async function POST(request: Request) {
  const { orderId, userId } = await request.json();
  await pushflo.publish({
    channel: `user-${userId}`,
    event: 'status-update',
    data: { orderId, message: 'Your order is on its way!' },
  });
  return NextResponse.json({ orderId, status: 'shipped' });
}
