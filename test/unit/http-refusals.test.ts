// What a machine and a person are told when a route fails: the machine a code and no word of our files, the person all of it.
import { expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { createHttp } from '../../src/http/server.ts';
import { createLog } from '../../src/log.ts';

const FULL = new AppError('STORE_UNUSABLE', '/var/lib/rackseed/rackseed.db: database or disk is full', 'make room');

async function failing(kind: 'machines' | 'people', error: Error) {
  const lines: string[] = [];
  const app = await createHttp(kind, createLog('info', { write: (line) => void lines.push(line) }), async (routes) => {
    routes.get('/', () => Promise.reject(error));
  });
  const { statusCode, headers, body } = await app.inject('/');
  await app.close();
  return { statusCode, type: String(headers['content-type']).split(';')[0], body, logged: lines.join('') };
}

it('a machine hears the code of our own fault and none of its words, which are in the log', async () => {
  const { logged, ...told } = await failing('machines', FULL);
  expect(told).toEqual({ statusCode: 500, type: 'text/plain', body: 'STORE_UNUSABLE: rackseed failed to answer; its log says more\n' });
  expect(logged).toContain('/var/lib/rackseed/rackseed.db');
});

it('a machine hears what it asked wrongly', async () => {
  expect(await failing('machines', new AppError('NODE_UNKNOWN', 'no such node'))).toMatchObject({ statusCode: 404, body: 'NODE_UNKNOWN: no such node\n' });
});

it('a person hears what is wrong and what to do', async () => {
  const { statusCode, body } = await failing('people', FULL);
  expect([statusCode, JSON.parse(body)]).toEqual([500, { code: 'STORE_UNUSABLE', message: FULL.message, hint: 'make room' }]);
});

it('a bug has no word of its own for either', async () => {
  expect((await failing('machines', new Error('secret'))).body).toBe('BUG: rackseed failed to answer; its log says more\n');
  expect((await failing('people', new Error('secret'))).body).not.toContain('secret');
});
