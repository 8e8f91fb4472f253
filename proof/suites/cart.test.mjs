// A suite as a team has it, which knows nothing of versions.
import test from 'node:test';
import assert from 'node:assert';
import http from 'node:http';

const cart = process.env.CART_URL;

test('fetch', async () => {
  const answer = await fetch(cart + '/items/1');
  assert.equal(answer.status, 200);
  console.log('answered: ' + (await answer.text()));
});

test('http.get', async () => {
  const status = await new Promise((ok, no) => http.get(cart + '/items/2', (r) => r.resume().on('end', () => ok(r.statusCode))).on('error', no));
  assert.equal(status, 200);
});

test('fetch over TLS', async () => {
  assert.equal((await fetch(cart.replace('http://', 'https://'))).status, 200);
});
