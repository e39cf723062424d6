// The API for people: on its Unix socket and on loopback, and nowhere that a machine of the boot LAN can reach.
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startWorld, type World } from './world.ts';

const API_PORT = 8081;
const LAN = '192.0.2.1';
let world: World;

beforeAll(async () => {
  // Another card of the same machine, as the boot LAN would be.
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  execFileSync('ip', ['address', 'add', `${LAN}/24`, 'dev', 'lo']);
  world = await startWorld({ apiPort: API_PORT });
});
afterAll(async () => {
  await world?.stop();
  execFileSync('ip', ['address', 'del', `${LAN}/24`, 'dev', 'lo']);
});

const status = async (url: string, method = 'GET'): Promise<number | string> =>
  fetch(url, { method }).then(
    (answer) => answer.status,
    (error: Error) => (error.cause as NodeJS.ErrnoException).code ?? 'failed',
  );

describe('the API', () => {
  it.each(['/livez', '/readyz', '/api/nodes', '/api/nodes/n1', '/api/boots', '/api/history', '/api/history?node=n1', '/api/generation', '/api/artifacts'])('%s answers on the socket and on loopback alike', async (path) => {
    const onSocket = await world.apiStatus(path);
    expect(onSocket.status).toBe(200);
    expect(await (await fetch(`http://127.0.0.1:${API_PORT}${path}`)).json()).toEqual(onSocket.body);
  });

  it.each([['GET', '/livez'], ['GET', '/readyz'], ['GET', '/api/nodes'], ['PUT', '/api/nodes/n1/profile'], ['POST', '/api/reload']])('%s %s is nothing on the port for machines', async (method, path) => {
    expect(await status(`http://127.0.0.1:${world.httpPort}${path}`, method)).toBe(404);
  });

  it("does not listen on any other of this machine's addresses", async () => {
    expect(await status(`http://${LAN}:${API_PORT}/livez`)).toBe('ECONNREFUSED');
    expect(await status(`http://${LAN}:${world.httpPort}/livez`)).toBe('ECONNREFUSED');
  });

  it('unknown names and paths are JSON with a code and a hint', async () => {
    expect(await world.apiStatus('/api/nodes/nn1')).toEqual({ status: 404, body: { code: 'NODE_UNKNOWN', message: 'no node nn1', hint: 'did you mean n1?' } });
    expect(await world.apiStatus('/api/nodes/constructor')).toMatchObject({ status: 404, body: { code: 'NODE_UNKNOWN' } });
    expect(await world.apiStatus('/api/boots/../../etc')).toMatchObject({ status: 404 });
    expect(await world.apiStatus('/nothing')).toEqual({ status: 404, body: { code: 'NOT_FOUND', message: 'nothing is served at /nothing' } });
  });
});
