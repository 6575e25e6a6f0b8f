// Serves index.html and the SDK's one file, and says how to publish to the page.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

const { PUSHFLO_URL, PUSHFLO_PUBLISH_KEY, PUSHFLO_SECRET_KEY, PORT } = process.env;
const FILES = {
  '/': ['text/html; charset=utf-8', new URL('index.html', import.meta.url)],
  '/pushflo.js': ['text/javascript', new URL('../../typescript/dist/pushflo.js', import.meta.url)],
};

const server = createServer(async (request, response) => {
  const file = FILES[new URL(request.url, 'http://page').pathname];
  if (!file) return response.writeHead(404).end();
  response.writeHead(200, { 'Content-Type': file[0] }).end(await readFile(file[1]));
});

server.listen(Number(PORT), '127.0.0.1', () => {
  const hash = new URLSearchParams({ url: PUSHFLO_URL, key: PUSHFLO_PUBLISH_KEY, channel: 'hello' });
  console.log(`
Open this page:

  http://127.0.0.1:${server.address().port}/#${hash}

and publish to it:

  curl ${PUSHFLO_URL}/api/v1/publish \\
    -H 'Authorization: Bearer ${PUSHFLO_SECRET_KEY}' \\
    -d '{"channel":"hello","data":{"text":"Hello, world"}}'
`);
});
