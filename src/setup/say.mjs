// How the bootstrap talks: always on stderr, one line for each long step, and a program's noise only when it fails.
import { spawn } from 'node:child_process';

/** Ends the bootstrap with one line and this exit code (sysexits.h). */
export class SetupError extends Error {
  constructor(message, exit) {
    super(message);
    this.exit = exit;
  }
}

export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** Runs a program with its output kept back: one line when it starts and its duration after it; the last lines of it when it fails, and the very last as `said` of the SetupError. */
export function longStep(what, argv, { cwd, env, exit = 70, mayFail = false, onFailure } = {}) {
  process.stderr.write(`rackseed: ${what} ... `);
  const start = Date.now();
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0], argv.slice(1), { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    let noise = '';
    const keep = (chunk) => (noise = (noise + chunk).slice(-16384));
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.once('error', (error) => {
      say('failed');
      reject(new SetupError(`${argv[0]}: ${error.message}`, exit));
    });
    child.once('close', (code) => {
      say(`${code === 0 ? 'done in' : 'failed after'} ${((Date.now() - start) / 1000).toFixed(1)} s`);
      if (code === 0) return resolve();
      say(noise.trimEnd().split('\n').slice(-40).map((line) => `  | ${line}`).join('\n'));
      onFailure?.(code);
      if (mayFail) return resolve();
      reject(Object.assign(new SetupError(`${what} failed (exit ${code}); its last lines are above`, exit), { said: noise.trimEnd().split('\n').at(-1) }));
    });
  });
}
