// `npm run bench -- SUBJECT`: measures, prints the table, and writes bench/results/<subject>.{json,svg}; exits 0 whenever it could measure.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { benchBoot } from './boot.ts';
import { drawBoot } from './boot-picture.ts';
import { benchDhcp, type BenchOptions } from './dhcp.ts';
import { drawDhcp } from './dhcp-picture.ts';
import { benchHttp } from './http.ts';
import { drawHttp } from './http-picture.ts';
import { benchImage } from './image.ts';
import { drawImage } from './image-picture.ts';
import { jsonOf, readTargets, tableOf, type Outcome, type Target } from './report.ts';
import { benchStorm } from './storm.ts';
import { drawStorm } from './storm-picture.ts';
import { benchTftp } from './tftp.ts';
import { drawTftp } from './tftp-picture.ts';

interface Subject {
  measure(options: BenchOptions): Promise<Outcome>;
  draw(outcome: Outcome, targets: readonly Target[]): string;
}

const SUBJECTS: Readonly<Record<string, Subject>> = {
  boot: { measure: benchBoot, draw: drawBoot },
  dhcp: { measure: benchDhcp, draw: drawDhcp },
  http: { measure: benchHttp, draw: drawHttp },
  image: { measure: benchImage, draw: drawImage },
  storm: { measure: benchStorm, draw: drawStorm },
  tftp: { measure: benchTftp, draw: drawTftp },
};

const USAGE = `usage: npm run bench -- SUBJECT [--quick] [--only NAME[,NAME]] [--cli FILE] [--out DIR]
  SUBJECT      ${Object.keys(SUBJECTS).join(', ')}
  --quick      one short round; nothing is written unless --out says where
  --only NAMES of the servers, such as rackseed,kea; nothing is written unless --out says where
  --cli FILE   another build of rackseed than dist/cli.js
  --out DIR    default bench/results`;

async function main(): Promise<number> {
  const root = process.cwd();
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { quick: { type: 'boolean', default: false }, only: { type: 'string' }, cli: { type: 'string' }, out: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  const name = positionals[0] ?? '';
  const subject = Object.hasOwn(SUBJECTS, name) ? SUBJECTS[name] : undefined;
  if (!subject || positionals.length > 1) {
    process.stderr.write(`${values.help ? '' : name ? `bench: no subject ${name}\n` : ''}${USAGE}\n`);
    return values.help ? 0 : 64;
  }
  const outcome = await subject.measure({
    root,
    cli: resolve(values.cli ?? join(root, 'dist/cli.js')),
    quick: values.quick,
    only: values.only?.split(',').filter(Boolean) ?? [],
    say: (line) => process.stderr.write(`${line}\n`),
  });
  // Targets are ours: a run of peers alone has none.
  const targets = outcome.names[0] === 'rackseed' ? readTargets(root, name) : [];
  process.stdout.write(tableOf(outcome, targets));
  if (values.quick) process.stderr.write('bench: a quick run: its figures are worth nothing\n');
  const out = values.out ?? (values.quick || values.only ? undefined : join(root, 'bench/results'));
  if (out) {
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, `${name}.json`), jsonOf(outcome, targets, new Date()));
    writeFileSync(join(out, `${name}.svg`), subject.draw(outcome, targets));
    process.stderr.write(`bench: written: ${join(out, name)}.json and .svg\n`);
  }
  for (const failure of outcome.failures) process.stderr.write(`bench: not measured: ${failure}\n`);
  return outcome.failures.some((failure) => failure.startsWith('rackseed:')) ? 1 : 0;
}

// Servers and generators die with us (setpriv), the namespaces end with our pipes, and what is on the disk goes in the exit handler.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));
main().then(
  (code) => (process.exitCode = code),
  (error: unknown) => {
    const { message, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error), code: undefined };
    const usage = code?.startsWith('ERR_PARSE_ARGS') === true;
    process.stderr.write(`bench: ${message}\n${usage ? `${USAGE}\n` : ''}`);
    process.exitCode = usage ? 64 : 1;
  },
);
