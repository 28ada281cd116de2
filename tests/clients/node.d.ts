// What usage.mts takes from Node.js: the whole of @types/node takes the compiler as long to read as the rest.
declare module "node:assert/strict" {
  const assert: {
    ok(value: unknown): asserts value;
    equal(actual: unknown, expected: unknown): void;
    deepEqual(actual: unknown, expected: unknown): void;
  };
  export default assert;
}
declare const process: { argv: string[] };
