/** The article's hook and the package's own, in React's strict mode, with a part that comes and goes. */
import { PushFloProvider, useChannel } from '@pushflodev/sdk/react';
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';

const { key, url } = JSON.parse(new URLSearchParams(location.search).get('options')!);

function News() {
  const { messages, isSubscribed, connectionState } = useChannel('news', { history: 10 });
  return (
    <section>
      <p id="state">{connectionState}</p>
      <p id="subscribed">{String(isSubscribed)}</p>
      <ol id="messages">
        {messages.map(({ id, data }) => (
          <li key={id}>{data}</li>
        ))}
      </ol>
    </section>
  );
}

function Page() {
  const [isShown, setShown] = useState(true);
  // Another key makes React throw the provider away and make it anew, as hot reload does.
  const [generation, setGeneration] = useState(0);
  return (
    <>
      <button onClick={() => setShown(!isShown)}>toggle</button>
      <button onClick={() => setGeneration(generation + 1)}>reload</button>
      {isShown && (
        <PushFloProvider key={generation} publishKey={key} baseUrl={url}>
          <News />
        </PushFloProvider>
      )}
    </>
  );
}

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
