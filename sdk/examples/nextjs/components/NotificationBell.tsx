// components/NotificationBell.tsx
'use client';

import { useReducer, useState } from 'react';
import { usePushFlo } from '@/hooks/usePushFlo';
import { BellIcon } from './BellIcon';

export function NotificationBell({ userId }: { userId: string }) {
  const { messages, isConnected } = usePushFlo(`user-${userId}`);
  const [isOpen, setOpen] = useState(false);
  const [, renderAgain] = useReducer((count) => count + 1, 0);

  const unreadCount = messages.filter(m => !m.read).length;

  function readAll() {
    for (const message of messages) message.read = true;
    renderAgain();
  }

  return (
    <div className="bell">
      <button className="relative" aria-label={`${unreadCount} unread notifications`} onClick={() => setOpen(!isOpen)}>
        <BellIcon className="h-6 w-6" />
        {unreadCount > 0 && (
          <span className="absolute -top-1 -right-1 bg-red-500 text-white text-xs rounded-full h-5 w-5 flex items-center justify-center">
            {unreadCount}
          </span>
        )}
        {isConnected && <span className="absolute bottom-0 right-0 h-2 w-2 bg-green-500 rounded-full" title="connected" />}
      </button>
      {isOpen && (
        <div className="notifications">
          <header>
            Notifications
            <button onClick={readAll} disabled={unreadCount === 0}>Mark all as read</button>
          </header>
          <ul>
            {messages.toReversed().map((m) => (
              <li key={m.id} className={m.read ? 'read' : 'unread'}>
                {m.data.message} <small>Order {m.data.orderId}</small>
              </li>
            ))}
          </ul>
          {messages.length === 0 && <p>Nothing yet.</p>}
        </div>
      )}
    </div>
  );
}
