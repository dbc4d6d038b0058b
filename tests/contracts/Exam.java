import java.util.ArrayList;
import java.util.List;
import sun.misc.Signal;

/** What the exam of task drivers has a Java program do; the first argument says which. */
public class Exam {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "forever" -> Thread.sleep(Long.MAX_VALUE);
            case "exit" -> {
                Thread.sleep((long) (Double.parseDouble(args[1]) * 1000));
                System.exit(Integer.parseInt(args[2]));
            }
            case "print" -> System.out.println(args[1]);
            case "complain" -> System.err.println(args[1]);
            case "env" -> new java.io.PrintStream(System.out, true, "UTF-8").println(System.getenv(args[1]));
            case "trap" -> {
                Signal.handle(new Signal(args[1]), signal -> {
                    System.out.println("caught");
                    System.exit(7);
                });
                System.out.println("ready");
                Thread.sleep(Long.MAX_VALUE);
            }
            case "stubborn" -> {
                Signal.handle(new Signal("INT"), signal -> { });
                Signal.handle(new Signal("TERM"), signal -> { });
                System.out.println("ready");
                Thread.sleep(Long.MAX_VALUE);
            }
            case "hog" -> {
                List<byte[]> blocks = new ArrayList<>();
                for (int n = 0; n < Integer.parseInt(args[1]); n++) {
                    byte[] block = new byte[1 << 20];
                    java.util.Arrays.fill(block, (byte) 1);
                    blocks.add(block);
                }
                System.out.println(blocks.size());
            }
            case "flood" -> {
                StringBuilder text = new StringBuilder();
                for (int n = 1; n <= Integer.parseInt(args[1]); n++) {
                    text.append(String.format("%-99d\n", n));
                }
                System.out.print(text);
            }
            case "child" -> {
                java.io.File beats = new java.io.File(args[1]);
                String script = "while :; do echo beat >> " + args[1] + "; sleep 0.1; done";
                new ProcessBuilder("setsid", "sh", "-c", script).start();
                while (beats.length() == 0) {
                    Thread.sleep(20);
                }
                System.exit(0);
            }
            default -> throw new IllegalArgumentException(args[0]);
        }
    }
}
