// What `rackseed check` found, for programs: one JSON document, or SARIF 2.1.0 as code hosts and editors read it.
import { isAbsolute, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ERRORS, type Fault } from '../errors.ts';

export const CHECK_FORMATS = ['text', 'json', 'sarif'] as const;
export type CheckFormat = (typeof CHECK_FORMATS)[number];

/** By what kind of file a fault is in; each has a section in docs/ERRORS.md. */
export const FAULT_CODES = ['CONFIG_INVALID', 'PROFILES_INVALID', 'IMAGE_SPEC_INVALID'] as const;
export type FaultCode = (typeof FAULT_CODES)[number];

export interface CheckFault extends Fault {
  readonly code: FaultCode;
}

export interface Checked {
  readonly faults: readonly CheckFault[];
  /** Of profiles without a fault. */
  readonly counted: { readonly profiles: number; readonly nodes: number };
  /** How many image.yaml were read. */
  readonly images: number;
  /** What could not be looked at here. */
  readonly notChecked: readonly string[];
  /** Path of the settings; absent: none were read. */
  readonly settings?: string;
}

/** Paths below `base` are relative to it; others are absolute. */
export function checkJson({ faults, counted, images, notChecked, settings }: Checked, base: string): string {
  const document = {
    ok: faults.length === 0,
    checked: { ...(settings === undefined ? {} : { settings: within(base, settings) ?? resolve(settings) }), ...counted, images },
    notChecked,
    faults: faults.map(({ file, line, column, code, message, hint }) => ({ file: within(base, file) ?? resolve(file), line, column, code, message, ...(hint === undefined ? {} : { hint }) })),
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** `version`: of rackseed. A place that is known only as a file is its first character. */
export function checkSarif({ faults, notChecked }: Checked, base: string, version: string): string {
  const log = {
    $schema: 'https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json',
    version: '2.1.0',
    runs: [
      {
        tool: { driver: { name: 'rackseed', version, rules: FAULT_CODES.map((id) => ({ id, shortDescription: { text: ERRORS[id].what }, help: { text: `docs/ERRORS.md, section ${id}` }, defaultConfiguration: { level: 'error' } })) } },
        // As the YAML library counts, and as editors do.
        columnKind: 'utf16CodeUnits',
        invocations: [{ executionSuccessful: true, toolExecutionNotifications: notChecked.map((what) => ({ level: 'note', message: { text: `not checked: ${what}` } })) }],
        results: faults.map(({ file, line, column, code, message, hint }) => ({
          ruleId: code,
          ruleIndex: FAULT_CODES.indexOf(code),
          level: 'error',
          message: { text: hint === undefined ? message : `${message} (${hint})` },
          locations: [{ physicalLocation: { artifactLocation: location(base, file), region: { startLine: line, startColumn: column } } }],
        })),
      },
    ],
  };
  return `${JSON.stringify(log, null, 2)}\n`;
}

/** `%SRCROOT%` is where the reader has the files, which in CI is its checkout. */
function location(base: string, file: string): { readonly uri: string; readonly uriBaseId?: string } {
  const path = within(base, file);
  return path === undefined ? { uri: pathToFileURL(resolve(file)).href } : { uri: path.split('/').map(encodeURIComponent).join('/'), uriBaseId: '%SRCROOT%' };
}

/** From `base`; undefined when it is not below it. */
function within(base: string, file: string): string | undefined {
  const path = relative(base, resolve(file));
  return path.startsWith('..') || isAbsolute(path) ? undefined : path;
}
