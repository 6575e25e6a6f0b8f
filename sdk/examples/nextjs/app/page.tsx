import { NotificationBell } from '@/components/NotificationBell';
import { OrderForm } from '@/components/OrderForm';

/** Who is logged in; an application knows it from its session. */
const USER_ID = '123';

export default function Page() {
  return (
    <main>
      <header className="top">
        <h1>Coffee shop</h1>
        <NotificationBell userId={USER_ID} />
      </header>
      <OrderForm userId={USER_ID} />
    </main>
  );
}
